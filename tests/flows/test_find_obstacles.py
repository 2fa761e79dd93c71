"""Test the obstacles of a whole run: all that only a person can remove, and none while other tasks progress."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from coordination.base.clock import utc_now
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.explanations import Obstacle, describe_missing_worker
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.projects.change_project import pause_project
from coordination.flows.tasks.find_obstacles import find_obstacles, next_start
from coordination.store.queries.fleet import workers
from tests.support.world import World


def holds(world: World, *, needs_worker: bool = False) -> list[Obstacle]:
    with world.store.read() as tx:
        return find_obstacles(
            tx,
            world.workspace,
            world.project_id,
            world.run_id,
            live_within=timedelta(seconds=30),
            needs_worker=needs_worker,
        )


def block(world: World, key: str, reason: BlockReason) -> None:
    world.sql(
        "UPDATE tasks SET state = 'blocked', reasons = reasons | :reason WHERE id = :id",
        reason=int(reason),
        id=world.ids[key],
    )


def put_on_hold(world: World) -> None:
    with world.store.write() as tx:
        pause_project(tx, world.workspace, world.project_id)


def stop_the_worker(world: World) -> None:
    with world.store.write() as tx:
        workers.stop(tx, world.worker)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (BlockReason.QUESTION, "question"),
        (BlockReason.OUTCOME_UNKNOWN, "outcome_unknown"),
        (BlockReason.LIMIT, "limit"),
    ],
)
def test_a_run_whose_tasks_all_wait_for_a_person_stands_still(world: World, reason: BlockReason, kind: str) -> None:
    world.submit("a", "b", "after < a")
    block(world, "a", reason)
    assert holds(world) == []  # b may start
    world.do("b")

    (obstacle,) = holds(world)
    assert (obstacle.kind, obstacle.tasks, obstacle.keys, obstacle.lasts) == (kind, 1, ("a",), True)
    assert obstacle.sentence.startswith("a ")


def test_a_task_that_runs_or_is_ready_is_no_standstill(world: World) -> None:
    world.submit("a", "b")
    block(world, "a", BlockReason.QUESTION)
    assert holds(world) == []

    world.claim("b")

    assert holds(world) == []


def test_what_passes_by_itself_is_no_standstill(world: World) -> None:
    world.submit("a", "b")
    block(world, "a", BlockReason.QUESTION)
    block(world, "b", BlockReason.NOT_BEFORE)

    assert holds(world) == []


def test_a_task_that_waits_for_its_next_attempt_is_no_standstill(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 2, "backoff": Backoff(timedelta(minutes=5))}})
    world.do("a", outcome=Outcome.FAILED)

    (obstacle,) = holds(world)
    assert (obstacle.kind, obstacle.keys, obstacle.lasts) == ("time", ("a",), False)
    with world.store.read() as tx:
        result = next_start(tx, world.workspace, world.run_id)
    assert result is not None
    assert result.key == "a"
    assert result.at > result.now


def test_a_task_that_may_start_now_hides_the_times_of_the_others(world: World) -> None:
    world.submit("now", "later", tasks={"later": {"not_before": utc_now() + timedelta(hours=1)}})

    with world.store.read() as tx:
        assert next_start(tx, world.workspace, world.run_id) is None
    world.do("now")
    with world.store.read() as tx:
        result = next_start(tx, world.workspace, world.run_id)
    assert result is not None
    assert result.key == "later"


def test_a_project_on_hold_holds_what_is_ready_and_all_else(world: World) -> None:
    world.submit("a", "b", "c < a")
    block(world, "b", BlockReason.QUESTION)

    put_on_hold(world)

    assert [(hold.kind, hold.tasks) for hold in holds(world)] == [("on_hold", 3), ("question", 1)]


def test_a_job_that_runs_in_a_project_on_hold_goes_on(world: World) -> None:
    world.submit("a", "b")
    world.claim("a")

    put_on_hold(world)

    assert holds(world) == []


def test_without_a_living_worker_what_is_ready_stands_still(world: World) -> None:
    world.submit("a")
    assert holds(world, needs_worker=True) == []

    stop_the_worker(world)

    assert holds(world, needs_worker=True) == [
        Obstacle("no_worker", 1, ("default",), describe_missing_worker("default"))
    ]
    assert holds(world) == []


def test_a_worker_of_another_workspace_is_none(world: World) -> None:
    world.submit("a")
    world.sql("UPDATE workers SET serves = '[\"elsewhere\"]'")

    assert [hold.kind for hold in holds(world, needs_worker=True)] == ["no_worker"]


@pytest.mark.parametrize("end", [lambda world: world.do("a"), lambda world: world.cancel("a")])
def test_a_run_that_has_ended_waits_for_nothing(world: World, end: Callable[[World], object]) -> None:
    world.submit("a")
    end(world)
    put_on_hold(world)

    assert holds(world) == []
