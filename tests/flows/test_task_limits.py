"""Test limits that only a person lifts: starts that cost money, deferrals in a row, attempts lost in a row."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import DEFAULT_MAX_STARTS, DEFERRAL_LIMIT, MAX_CONSECUTIVE_LOSSES, BlockReason
from coordination.flows.tasks.explain_task import explain_task
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after
from tests.support.world import World

AGENT = {"run": {"agent": "claude", "prompt": "Mend it"}, "max_attempts": 50}


def begin(world: World, key: str = "a") -> None:
    world.make_due(key)
    assert world.claim(key) == [key]


def explained(world: World, key: str = "a") -> str:
    with world.store.read() as tx:
        explanation = explain_task(tx, world.workspace, world.task(key), live_within=timedelta(minutes=1))
    return "\n".join(explanation.lines())


class TestStarts:
    @pytest.mark.parametrize(
        "outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED, Outcome.HANDED_BACK, Outcome.CANCELED]
    )
    def test_an_agent_that_has_started_often_enough_waits_for_a_person(self, world: World, outcome: Outcome) -> None:
        world.submit("a", tasks={"a": {**AGENT, "max_starts": 2}})
        for state in ("queued", "blocked"):
            begin(world)
            world.finish("a", outcome, error="busy")
            assert world.states() == {"a": state}

        assert world.task("a").reasons == BlockReason.LIMIT
        assert world.story("a")[-1] == "blocked"
        assert "it has started 2 times, as often as max_starts allows" in explained(world)
        assert "coord tasks retry a" in explained(world)
        assert world.retry("a") == {"a"}
        assert (world.task("a").state, world.task("a").starts) == ("queued", 0)
        begin(world)
        world.finish("a")
        assert world.states() == {"a": "completed"}

    def test_one_that_was_lost_counts_too(self, world: World) -> None:
        world.submit("a", tasks={"a": {**AGENT, "max_starts": 1}})
        begin(world)
        world.expire("a")

        world.tick()

        assert world.task("a").reasons == BlockReason.LIMIT
        assert world.outcomes("a") == ["lost"]

    def test_a_question_at_the_limit_leaves_both_reasons(self, world: World) -> None:
        world.submit("a", tasks={"a": {**AGENT, "max_starts": 1}})
        begin(world)

        world.finish("a", question="Which colour?")

        assert world.task("a").reasons == BlockReason.QUESTION | BlockReason.LIMIT

    def test_what_was_never_started_counts_for_nothing(self, world: World) -> None:
        world.submit("a", tasks={"a": {**AGENT, "max_starts": 1}})
        begin(world)

        world.finish("a", Outcome.DEFERRED, job_started=False)

        assert (world.states(), world.task("a").starts) == ({"a": "queued"}, 0)

    def test_a_command_starts_for_nothing(self, world: World) -> None:
        world.submit("a", tasks={"a": {"max_starts": 1, "max_attempts": 3}})
        begin(world)

        world.finish("a", Outcome.FAILED)

        assert (world.states(), world.task("a").starts) == ({"a": "queued"}, 0)

    def test_without_a_word_there_are_enough_for_all_attempts(self, world: World) -> None:
        world.submit("a", "b", "c", tasks={"a": AGENT, "b": {"max_starts": 3}})

        assert [world.task(key).max_starts for key in "abc"] == [50, 3, DEFAULT_MAX_STARTS]


class TestDeferrals:
    def test_a_day_of_them_is_enough(self, world: World) -> None:
        world.submit("a")
        begin(world)
        world.finish("a", Outcome.DEFERRED, error="the server is away")
        first = world.task("a").deferred_since
        assert "(deferred 1 of 100 times, since " in explained(world)
        begin(world)
        world.finish("a", Outcome.DEFERRED)
        assert world.task("a").deferred_since == first
        with world.store.write() as tx:
            tx.execute(update(tasks).values(deferred_since=db_after(-DEFERRAL_LIMIT.total_seconds() - 60)))
        begin(world)

        world.finish("a", Outcome.DEFERRED, error="the server is away")

        assert world.task("a").reasons == BlockReason.LIMIT
        assert "it has deferred itself for 1d" in explained(world)
        assert "the last time: the server is away" in explained(world)

    @pytest.mark.parametrize(("outcome", "left"), [(Outcome.FAILED, 0), (Outcome.HANDED_BACK, 1)])
    def test_an_end_of_another_kind_begins_them_anew(self, world: World, outcome: Outcome, left: int) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 5}})
        begin(world)
        world.finish("a", Outcome.DEFERRED)
        begin(world)

        world.finish("a", outcome)

        assert (world.task("a").deferrals, world.task("a").deferred_since is not None) == (left, bool(left))


class TestLosses:
    def test_the_last_of_many_in_a_row_waits_for_a_person(self, world: World) -> None:
        world.submit("a")
        world.sql("UPDATE tasks SET consecutive_losses = :n", n=MAX_CONSECUTIVE_LOSSES - 1)
        begin(world)
        world.expire("a")

        world.tick()

        assert world.task("a").reasons == BlockReason.LIMIT
        assert f"its worker was lost {MAX_CONSECUTIVE_LOSSES} times in a row" in explained(world)

    def test_any_other_end_begins_them_anew(self, world: World) -> None:
        world.submit("a")
        world.sql("UPDATE tasks SET consecutive_losses = :n", n=MAX_CONSECUTIVE_LOSSES - 1)
        begin(world)

        world.finish("a", Outcome.HANDED_BACK)

        assert world.task("a").consecutive_losses == 0
