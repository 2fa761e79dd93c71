"""Test that names of runs and tasks mean those of the current folder's project, in Python and over MCP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client

from coordination.api.connection import Coordination
from coordination.api.runs import Run
from coordination.base.errors import Ambiguous, NotFound
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.mcp_server import reading
from coordination.mcp_server.server import make_server
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from tests.support.refusals import refuses


@pytest.fixture
def co(store_url: str, tmp_path: Path) -> Iterator[Coordination]:
    settings = load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")})
    with Coordination(open_runtime(settings)) as co:
        yield co


@pytest.fixture
def runs(co: Coordination, tmp_path: Path) -> dict[str, Run]:
    """Provide two projects in two folders, each with a run and a task of the same names; b's are newer."""
    created = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        plan = Plan(
            [Task("build", {"shell": "true"}), Task(f"only-{name}", {"shell": "true"})],
            name="nightly",
            project=ProjectRef(path=str(tmp_path / name)),
        )
        created[name] = co.submit(plan)
    (tmp_path / "elsewhere").mkdir()
    return created


def test_a_key_means_the_task_of_the_project_that_the_folder_belongs_to(
    co: Coordination, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, run in runs.items():
        monkeypatch.chdir(tmp_path / name)
        assert co.task("build").record.run_id == run.id
        assert co.run("nightly").id == run.id
    with refuses(NotFound):
        co.task("only-a")
    assert co.task("only-a", project="a").record.run_id == runs["a"].id
    assert co.run("nightly", project="a").id == runs["a"].id


def test_an_id_means_the_same_everywhere_and_a_part_of_it_in_its_project(
    co: Coordination, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = runs["a"].task("only-a")
    for name in ("a", "b", "elsewhere"):
        monkeypatch.chdir(tmp_path / name)
        assert (co.task(task.id).id, co.run(runs["a"].id).id) == (task.id, runs["a"].id)
    assert (co.task(task.id[-8:]).id, co.run(runs["a"].id[-8:]).id) == (task.id, runs["a"].id)

    monkeypatch.chdir(tmp_path / "b")
    with refuses(NotFound, varies="'[0-9a-f]{8}'"):
        co.task(task.id[-8:])
    with refuses(NotFound, varies="'[0-9a-f]{8}'"):
        co.run(runs["a"].id[-8:])


def test_where_no_project_is_what_several_have_is_refused(
    co: Coordination, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "elsewhere")

    with refuses(Ambiguous):
        co.task("build")
    with refuses(Ambiguous):
        co.run("nightly")
    assert co.task("only-a").record.run_id == runs["a"].id


def test_tools_over_mcp_look_where_they_stand(
    co: Coordination, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(**arguments: str) -> str:
        async with Client(make_server((), reading.tools(lambda: co))) as client:
            result = await client.call_tool("task", arguments)
        return "".join(part.text for part in result.content)

    monkeypatch.chdir(tmp_path / "a")
    assert runs["a"].id in asyncio.run(ask(task="build"))
    assert runs["b"].id in asyncio.run(ask(task="build", run=runs["b"].id))
    assert "of the current folder" in asyncio.run(ask(task="only-b"))
