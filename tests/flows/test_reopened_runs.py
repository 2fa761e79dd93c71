"""Test that a retry or a forced state reopens the run, and that no task waits for a waived dependency."""

from __future__ import annotations

from coordination.domain.tasks.tasks import TaskState
from coordination.flows.tasks.force_tasks import force_task
from coordination.store.queries.tasks import runs
from tests.support.world import World


def is_open(world: World) -> bool:
    with world.store.read() as tx:
        return world.run_id in runs.list_unfinished(tx, world.workspace, world.project_id)


def test_a_retry_opens_the_run_again_until_its_task_has_ended(world: World) -> None:
    world.submit("a", "b")
    world.do("b")
    world.fail("a")
    assert not is_open(world)

    world.retry("a")

    assert is_open(world)
    world.do("a")
    assert not is_open(world)


def test_a_task_that_was_forced_to_run_never_waits_again_for_what_it_needed(world: World) -> None:
    world.submit("needed", "child < needed")
    world.store.transact(
        lambda tx: force_task(
            tx, world.workspace, world.ids["child"], TaskState.QUEUED, actor="ann", reason="it can do without"
        )
    )
    world.fail("child")

    world.retry("child")

    assert world.states() == {"needed": "queued", "child": "queued"}
