"""Test the tools of our MCP server: few and small, and errors are one sentence."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from typing import Any

import pytest
from mcp import Client

from coordination.api.connection import Coordination
from coordination.base.errors import Refused
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.mcp_server import reading, reporting
from coordination.mcp_server.server import make_server
from coordination.mcp_server.tools import FLAG, NUMBER, TEXT, TEXTS, Tool, call
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
    server = make_server(reporting.TOOLS, reading.tools(lambda: co) if co is not None else ())

    async def call() -> Any:
        async with Client(server) as client:
            return await client.call_tool(name, arguments)

    result = asyncio.run(call())
    return bool(result.is_error), "".join(part.text for part in result.content)


def test_they_are_few_and_small(co: Coordination) -> None:
    tools = [tool.declaration() for tool in (*reporting.TOOLS, *reading.tools(lambda: co))]

    # Schemas are part of every agent's context.
    assert len(tools) <= 14
    assert len(json.dumps(tools).encode()) <= 12 * 1024
    assert all(tool["description"] for tool in tools)


def test_their_schemas_have_the_arguments_of_their_functions(co: Coordination) -> None:
    for tool in (*reporting.TOOLS, *reading.tools(lambda: co)):
        parameters = inspect.signature(tool.call).parameters.values()

        assert [*tool.arguments] == [one.name for one in parameters], tool.name
        assert [*tool.needed] == [one.name for one in parameters if one.default is one.empty], tool.name


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
    assert json.loads(looked["runs"][1])[0]["counts"] == {"queued": 1, "blocked": 1}
    assert [(task["key"], task["state"]) for task in json.loads(looked["tasks"][1])] == [
        ("lint", "queued"),
        ("fix", "blocked"),
    ]
    assert json.loads(looked["task"][1])["work"] == {"shell": "true"}
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
        ("nothing", {}, "There is no tool 'nothing'. Call one of: progress, ask"),
        ("tasks", {}, "tasks lacks the argument run. Call tasks with: run (a string)."),
        ("tasks", {"run": None}, "tasks lacks the argument run."),
        ("tasks", {"run": ["x"]}, 'tasks: run must be a string, not ["x"]. Call tasks with: run (a string).'),
        ("runs", {"projects": "x"}, "runs has no argument 'projects'. Call runs with: project (a string, optional)."),
        ("status", {"run": "x"}, "status has no argument 'run'. Call status without arguments."),
        ("progress", {"text": "x", "percent": "half"}, "progress: percent must be a number, not 'half'."),
        (
            "discovered",
            {"key": "x", "shell": "y", "needs": [1]},
            "discovered: needs must be a list of strings, not [1].",
        ),
        ("progress", {"text": "x"}, "This is not a job that can report"),
        ("discovered", {"key": "x"}, "Give either prompt or shell"),
        ("discovered", {"key": "x", "prompt": "a", "shell": "b"}, "Give either prompt or shell"),
        ("context", {}, "This is not a job"),
    ],
)
def test_what_is_wrong_is_a_sentence(co: Coordination, name: str, arguments: dict[str, Any], words: str) -> None:
    failed, text = ask(co, name, **arguments)

    assert failed
    assert words in text
    assert "\n" not in text


def test_what_models_write_as_a_text_or_null_is_taken_as_what_it_means() -> None:
    heard: list[Any] = []

    def note(count: float, names: list[str], sure: bool = False, text: str | None = None) -> str:  # noqa: FBT001, FBT002
        heard.append((count, names, sure, text))
        return "ok"

    tool = Tool(note, {"count": NUMBER, "names": TEXTS, "sure": FLAG, "text": TEXT}, ("count", "names"))

    sent = {"count": "2.5", "names": '["a", "b"]', "sure": "true", "text": None}
    assert call([tool], "note", sent) == ("ok", False)
    assert heard == [(2.5, ["a", "b"], True, None)]


def test_a_tool_that_fails_unexpectedly_is_a_sentence_too() -> None:
    def bad() -> str:
        raise KeyError("x")

    text, failed = call([Tool(bad)], "bad", None)

    assert failed
    assert text.startswith("bad failed unexpectedly with KeyError")


def test_without_the_extra_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from coordination.cli.jobs.mcp import mcp

    monkeypatch.setitem(sys.modules, "mcp.server", None)
    monkeypatch.delitem(sys.modules, "coordination.mcp_server.server")
    monkeypatch.setattr("coordination.cli.jobs.mcp.install_command", lambda extra: f"pip install '.[{extra}]'")

    with refuses(Refused):
        mcp()
