"""The tools of our MCP server: few and small, and what is wrong is a sentence."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from mcp import Client

from coordination.client import Coordination
from coordination.domain.plans import Plan, ProjectRef, Task
from coordination.errors import Refused
from coordination.mcp_server import reading, reporting
from coordination.mcp_server.server import MOST_BYTES, MOST_TOOLS, make_server
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from tests.support.refusals import refuses


@pytest.fixture
def co(store_url: str, tmp_path: Any) -> Any:
    with Coordination(
        open_runtime(load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path)}))
    ) as co:
        yield co


def ask(co: Coordination | None, name: str, **arguments: Any) -> tuple[bool, str]:
    server = make_server(reporting.TOOLS, reading.tools(co) if co is not None else ())

    async def call() -> Any:
        async with Client(server) as client:
            return await client.call_tool(name, arguments)

    result = asyncio.run(call())
    return bool(result.is_error), "".join(part.text for part in result.content)


def test_they_are_few_and_small(co: Coordination) -> None:
    tools = asyncio.run(make_server(reporting.TOOLS, reading.tools(co)).list_tools())

    told = json.dumps([tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools])
    assert len(tools) <= MOST_TOOLS
    assert len(told.encode()) <= MOST_BYTES
    assert all(tool.description and tool.output_schema is None for tool in tools)


def test_they_look_at_what_is_at_work(co: Coordination) -> None:
    plan = Plan(
        [Task("lint", {"shell": "true"}, title="Look"), Task("fix", {"shell": "true"}, needs=["lint"])],
        project=ProjectRef(name="shop", path=co.runtime.settings.home.as_posix()),
    )
    run = co.submit(plan)

    looked = {
        "status": ask(co, "status"),
        "runs": ask(co, "runs", project="shop"),
        "tasks": ask(co, "tasks", run=run.id),
        "task": ask(co, "task", task="lint"),
        "explain": ask(co, "explain", task="fix", run=run.id),
        "questions": ask(co, "questions"),
    }

    assert not [name for name, (failed, _) in looked.items() if failed]
    assert json.loads(looked["runs"][1])[0]["tasks"] == {"queued": 1, "blocked": 1}
    assert [(task["key"], task["state"]) for task in json.loads(looked["tasks"][1])] == [
        ("lint", "queued"),
        ("fix", "blocked"),
    ]
    assert json.loads(looked["task"][1])["runs"] == {"shell": "true"}
    assert "lint" in looked["explain"][1]
    assert looked["questions"][1] == "[]"
    assert json.loads(looked["status"][1])["projects"][0]["name"] == "shop"


def test_a_long_answer_is_cut(co: Coordination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_ANSWER", 100)
    co.submit(
        Plan(
            [Task("x" * 50, {"shell": "y" * 500})],
            project=ProjectRef(name="shop", path=co.runtime.settings.home.as_posix()),
        )
    )

    _, text = ask(co, "task", task="x" * 50)

    assert len(text) < 150
    assert "characters in all)" in text


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("task", {"task": "nobody"}, "There is no task 'nobody'"),
        ("explain", {"task": "nobody", "run": "none"}, "There is no run 'none'"),
        ("runs", {"project": "nowhere"}, "nowhere"),
        ("tasks", {}, "Field required"),
        ("progress", {"text": "x"}, "This is not a job that can report"),
        ("discovered", {"key": "x"}, "Say either prompt or shell"),
        ("discovered", {"key": "x", "prompt": "a", "shell": "b"}, "Say either prompt or shell"),
        ("context", {}, "This is not a job"),
    ],
)
def test_what_is_wrong_is_a_sentence(co: Coordination, name: str, arguments: dict[str, Any], words: str) -> None:
    failed, text = ask(co, name, **arguments)

    assert failed
    assert words in text
    assert "Traceback" not in text


def test_without_the_extra_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from coordination.cli.mcp import mcp
    from workers.runners import environment

    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    monkeypatch.delitem(sys.modules, "coordination.mcp_server.server")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for user in ("coordination.cli.mcp", "workers.runners.environment"):
        monkeypatch.setattr(f"{user}.install_command", lambda extra: f"pip install '.[{extra}]'")

    with refuses(Refused):
        mcp()
    with refuses(Refused):
        environment.our_server()
