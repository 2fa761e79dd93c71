"""Test jobs that report by our MCP server: with the protocol's own client, as chats, and a real coding agent."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.jobs import AgentCall, ChatCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from coordination.mcp_server import reporting
from tests.acceptance.test_agents import MODEL, provider
from tests.support.fleet import Fleet
from tests.support.model_server import ToolUse, running_model_server
from tests.support.npm import CLAUDE, npm_program
from tests.support.processes import until

pytestmark = pytest.mark.shared_worker

CLIENT = Path(__file__).parents[1] / "support" / "mcp_client.py"


def calling(*calls: tuple[str, dict[str, Any]]) -> str:
    """Return a command that calls these tools."""
    return shlex.join([sys.executable, str(CLIENT), *(f"{name} {json.dumps(values)}" for name, values in calls)])


def answers(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def texts(fleet: Fleet, run: Any, key: str) -> list[Any]:
    return [event.payload.get("text") for event in run._events_after("0.0") if event.key == key]


def test_a_job_reports_over_mcp_and_what_it_says_twice_counts_once(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    reported = {"key": "later", "shell": "echo mended", "title": "A bug"}
    halfway = {"text": "half of it", "percent": 50}
    job = calling(
        ("progress", halfway),
        ("progress", halfway),
        ("discovered", reported),
        ("discovered", reported),
        ("discovered", {"key": "a b", "shell": "true"}),
        ("context", {}),
        ("done", {"output": {"made": 1}}),
    )
    run = fleet.submit(
        Task("a", {"shell": f"{job} > said"}), Task("b", {"shell": "echo {{ needs.a.output.made }}"}, needs=["a"])
    )

    assert run.wait(timeout=90) is RunState.COMPLETED

    tools, *output = answers(fleet.file("said").read_text())
    assert tools == [tool.name for tool in reporting.TOOLS]  # no store is configured for it
    assert [failed for _, failed, _ in output] == [False, False, False, False, True, False, False]
    assert output[2] == output[3]
    assert "'a b' cannot be a key" in output[4][2]
    assert json.loads(output[5][2])["task"]["key"] == "a"
    assert texts(fleet, run, "a").count("half of it") == 1
    assert len(run.tasks()) == 3
    assert run.task("later").output == "mended"
    assert run.task("b").output == "1"


def test_a_job_asks_over_mcp_and_goes_on_and_one_gives_up(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    asks = f"[ $COORD_ATTEMPT = 1 ] && {calling(('ask', {'question': 'Which colour?'}))} || echo on"
    gives_up = calling(("fail", {"why": "no paint", "final": True}))
    run = fleet.submit(Task("a", {"shell": asks}), Task("b", {"shell": gives_up}, max_attempts=3))
    until(lambda: run.task("a").state == "blocked", what="the task waits for an answer")

    assert [question.question for question in run.task("a").questions()] == ["Which colour?"]
    run.task("a").answer("blue")

    assert run.wait(timeout=60) is RunState.FAILED
    assert run.task("a").output == "on"
    assert [attempt.error for attempt in run.task("b").attempts()] == ["no paint"]


def test_outside_it_looks_and_inside_too_where_it_is_told_of_the_store(fleet: Fleet) -> None:
    run = fleet.submit(Task("a", {"shell": "true"}))

    done = subprocess.run(
        [sys.executable, str(CLIENT), 'task {"task": "a"}'],
        env={"PATH": "/usr/bin:/bin", **fleet.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    tools, (_, failed, text) = answers(done.stdout)
    assert tools == ["status", "runs", "tasks", "task", "explain", "questions"]
    assert not failed
    assert json.loads(text)["run_id"] == run.id


def test_a_chat_reports_and_finds_work_with_our_tools_but_no_command(fleet: Fleet) -> None:
    turns = [
        ToolUse("progress", {"text": "looking"}),
        ToolUse("discovered", {"key": "command", "shell": "touch ran"}),
        ToolUse("discovered", {"key": "later", "prompt": "Mend it"}),
        "It is well",
        "mended",
        "mended",
    ]
    with running_model_server(turns) as server:
        fleet.worker("-c", "2")
        run = fleet.submit(
            Task("look", ChatCall("openai:m-1", "How is it?", url=f"{server.url}/v1", tools=["coord"])),
            Task("plain", ChatCall("openai:m-1", "And you?", url=f"{server.url}/v1"), needs=["look"]),
        )

        assert run.wait(timeout=90) is RunState.COMPLETED

    assert run.task("look").output == "It is well"
    assert "which reports it, may run none" in str(server.requests[2]["messages"])
    assert not fleet.file("ran").exists()
    assert "looking" in texts(fleet, run, "look")
    assert (run.task("later").output, run.task("later").record.creator) == ("mended", "task:look")
    assert "with the tools of the MCP server `coord`" in str(server.requests[0]["messages"])
    (plain,) = [str(requests["messages"]) for requests in server.requests if "And you?" in str(requests["messages"])]
    assert "How to report" not in plain  # it has no shell to report from


@pytest.mark.network
@pytest.mark.timeout(400)
@pytest.mark.own_worker
def test_claude_code_reports_with_our_tools(
    fleet: Fleet, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.getbasetemp()
    claude = npm_program(CLAUDE, "claude", (shared.parent if "gw" in shared.name else shared) / "programs")
    turns = [
        ToolUse("mcp__coord__progress", {"text": "looking"}),
        ToolUse("Bash", {"command": "touch it"}),
        "Done",
    ]
    with running_model_server(turns) as server:
        fleet.worker("-c", "2", **provider(server, tmp_path))
        call = AgentCall(
            "claude", "Look", model=MODEL, command=[claude], args=["--allowedTools", "Bash"], tools=["coord"]
        )
        run = fleet.submit(Task("look", call))

        assert run.wait(timeout=120) is RunState.COMPLETED

    assert run.task("look").output == "Done"
    # It does not wait for a slow server, so ours must not be slow.
    assert "mcp__coord__progress" in [tool["name"] for tool in server.requests[0]["tools"]]
    assert "looking" in texts(fleet, run, "look")
    assert fleet.file("it").exists()
