"""Test that a recorded merge counts for the next attempt only, and only where the attempt's own end was not stored."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import Claim, Outcome
from tests.support.world import World
from workers.attempt.steps.worktree import SqlMergeRecords


def merge_of(claim: Claim, new: str = "new") -> Merge:
    return Merge(claim.attempt, "coord/x/run", "old", new, {"output": {"said": "grüß dich"}, "log": "it ran"})


def claim(world: World, key: str = "a", **more: object) -> Claim:
    assert world.claim(key, **more) == [key]
    return world.claims[key]


def test_the_attempt_that_holds_its_task_records_and_the_next_one_reads(world: World) -> None:
    world.submit("a")
    first = claim(world, lease=timedelta(seconds=-60))
    records = SqlMergeRecords(world.store)

    assert records.write(first, merge_of(first, "given up"))
    assert records.write(first, merge_of(first))  # the branch had moved meanwhile
    assert list(records.unfinished(first)) == []
    world.tick()
    second = claim(world)

    assert (second.attempt, list(records.unfinished(second))) == (2, [merge_of(first)])


def test_an_attempt_that_lost_its_task_records_nothing(world: World) -> None:
    world.submit("a")
    first = claim(world, lease=timedelta(seconds=-60))
    world.tick()
    second = claim(world)

    assert not SqlMergeRecords(world.store).write(first, merge_of(first))
    assert list(SqlMergeRecords(world.store).unfinished(second)) == []


def test_an_attempt_of_a_task_that_was_canceled_records_nothing(world: World) -> None:
    world.submit("a")
    first = claim(world)
    world.cancel("a")

    assert not SqlMergeRecords(world.store).write(first, merge_of(first))


@pytest.mark.parametrize(
    ("outcome", "counts"), [(Outcome.FAILED, False), (Outcome.TIMED_OUT, False), (Outcome.HANDED_BACK, True)]
)
def test_what_an_attempt_said_at_its_end_overrules_its_record(world: World, outcome: Outcome, *, counts: bool) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 3}})
    first = claim(world)
    records = SqlMergeRecords(world.store)
    records.write(first, merge_of(first))
    world.finish("a", outcome=outcome, error="no")
    world.sql("UPDATE tasks SET not_before = NULL WHERE workspace_id = :ws", ws=world.workspace)

    second = claim(world)

    assert bool(records.unfinished(second)) is counts


def test_records_go_with_the_stored_end(world: World) -> None:
    world.submit("a")
    first = claim(world, lease=timedelta(seconds=-60))
    records = SqlMergeRecords(world.store)
    records.write(first, merge_of(first))

    records.forget(first)
    world.tick()

    assert list(records.unfinished(claim(world))) == []
