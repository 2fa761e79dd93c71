"""Test cancels: the state changes first, dependants follow their own rules, and nothing happens twice."""

from __future__ import annotations

from coordination.base.errors import NotFound
from coordination.base.ids import new_id
from coordination.domain.tasks.tasks import OnDependencyFailure
from coordination.flows.tasks.cancel_work import cancel_run, cancel_task
from coordination.store.queries.tasks import runs
from tests.support.refusals import refuses
from tests.support.world import World


def test_a_canceled_task_takes_along_what_needs_it(world: World) -> None:
    world.submit(
        "a",
        "b < a",
        "anyway < a",
        "later < a",
        tasks={
            "anyway": {"on_dependency_failure": OnDependencyFailure.RUN},
            "later": {"on_dependency_failure": OnDependencyFailure.BLOCK},
        },
    )

    freed = world.cancel("a")

    assert world.states() == {"a": "canceled", "b": "canceled", "anyway": "queued", "later": "blocked"}
    assert freed == [world.ids["anyway"]]
    assert world.task("a").error == "changed my mind"
    assert world.story("a")[-1] == world.story("b")[-1] == "canceled"


def test_a_cancel_names_the_attempts_that_must_be_stopped(world: World) -> None:
    world.submit("a", "b")
    world.claim("a")

    with world.store.write() as tx:
        canceled = cancel_run(tx, world.workspace, world.run_id, actor="ann", why="enough")

    assert sorted(canceled.tasks) == sorted([(world.ids["a"], 1), (world.ids["b"], 0)])
    assert world.outcomes("a") == [None], "its worker ends the job, then the attempt"
    with world.store.read() as tx:
        run = runs.get(tx, world.workspace, world.run_id)
    assert run.state == "canceled"
    assert run.finished_at is not None


def test_canceling_what_has_ended_changes_nothing(world: World) -> None:
    world.submit("a", "b < a")
    world.do("a", "b")

    assert world.cancel("a") == []
    world.cancel_run(world.run_id)

    assert set(world.states().values()) == {"completed"}
    assert "canceled" not in world.story("a")


def test_what_does_not_exist_cannot_be_canceled(world: World) -> None:
    with world.store.write() as tx:
        with refuses(NotFound):
            cancel_run(tx, world.workspace, new_id(), actor="ann", why="")
        with refuses(NotFound):
            cancel_task(tx, world.workspace, new_id(), actor="ann", why="")


def test_a_canceled_attempt_whose_worker_died_is_closed_by_the_tick(world: World) -> None:
    world.submit("a")
    world.claim("a")
    world.cancel("a")
    assert not world.tick().ended, "an attempt is open"
    world.expire("a")

    ticked = world.tick()

    assert world.states() == {"a": "canceled"}
    assert world.outcomes("a") == ["canceled"]
    assert ticked.ended
