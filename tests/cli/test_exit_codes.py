"""Test exit codes: 0 when a run has completed, 1 for every other end, 2 for refusals, 130 when interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordination.api.connection import Coordination
from coordination.cli import main
from coordination.cli.plans import run as work
from coordination.cli.stack.embedded import UsedStack
from coordination.domain.tasks.tasks import OnDependencyFailure
from coordination.runtime import open_runtime
from coordination.store.engine import open_store
from tests.support.command import Coord
from tests.support.stacks import settings_in
from tests.support.world import World

HERE = UsedStack(redis_url=None, problem=lambda: None)


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """Provide the workspace that the command line uses by default."""
    opened = open_store(sqlite_url)
    yield World(opened)
    opened.close()


@pytest.fixture
def co(world: World, sqlite_url: str, tmp_path: Path) -> Iterator[Coordination]:
    """Provide the API on the same store, without Redis."""
    with Coordination(open_runtime(settings_in(tmp_path / "home", database_url=sqlite_url))) as opened:
        yield opened


def completed(world: World) -> None:
    world.submit("a", "b < a")
    world.do("a", "b")


def failed(world: World) -> None:
    world.submit("a", "b")
    world.do("a")
    world.fail("b")


def canceled(world: World) -> None:
    world.submit("a", "b")
    world.do("a")
    world.cancel("b")


def stuck(world: World) -> None:
    world.submit("a", "b < a", tasks={"b": {"on_dependency_failure": OnDependencyFailure.BLOCK}})
    world.fail("a")


@pytest.mark.parametrize(
    ("end", "code"),
    [(completed, 0), (failed, 1), (canceled, 1), (stuck, 1)],
)
def test_a_run_that_is_followed_to_its_end_exits_with_what_it_came_to(
    world: World, co: Coordination, end: Callable[[World], None], code: int
) -> None:
    end(world)
    run = co.run(world.run_id)

    exit_codes = [work._follow(run, HERE, as_json=as_json) for as_json in (False, True)]

    assert (run.state.value, exit_codes) == (end.__name__, [code, code])


def test_an_interruption_and_a_bug_have_exit_codes_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    codes = []
    monkeypatch.setattr(main.gc_tuning, "freeze_loaded_objects", lambda: None)  # this process continues
    monkeypatch.setattr(main.hints, "enable", lambda _words: None)
    for app in (interrupted, broken):
        monkeypatch.setattr(main, "app", app)
        codes.append(main.main())

    assert codes == [130, 70]
    assert "this is a bug" in capsys.readouterr().err


def test_what_is_refused_exits_with_two(coord: Coord, plan: Path) -> None:
    plan.write_text("version: 1\ntasks: [{key: a, needs: [b], run: {shell: 'true'}}]\n")

    assert "is not in the plan" in coord("check", plan, code=2).err
    assert "cannot be read" in coord("check", plan.with_name("nowhere.yaml"), code=2).err
    assert "nope" in coord("runs", "show", "nope", code=2).err
