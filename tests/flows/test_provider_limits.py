"""Test a provider's limit: stored with the attempt, waited for until its reset, and explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import update

from coordination.domain.fleet.leases import MAX_DEFERRALS
from coordination.domain.jobs.changed_files import ChangeSummary
from coordination.domain.jobs.provider_errors import ProviderLimit
from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.retry import Backoff
from coordination.store.queries.tasks import attempts
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after
from tests.flows.test_budgets import costing, counted, use
from tests.flows.test_task_limits import begin, explained
from tests.support.world import World

AGENT = {"run": {"agent": "claude", "prompt": "Mend it"}, "max_attempts": 1}


def in_(length: timedelta) -> datetime:
    return datetime.now(UTC) + length


def meet(world: World, resets: datetime | None, *, until: datetime | None = None) -> None:
    """Let the attempt of task a reach a limit."""
    limit = ProviderLimit("claude with KEY", "weekly", resets)
    world.finish("a", Outcome.DEFERRED, error="Weekly limit reached", limit=limit, not_before=until or resets)


def wait_of(world: World) -> timedelta:
    task = world.task("a")
    assert task.not_before is not None
    return task.not_before - datetime.now(UTC)


class TestWaits:
    def test_it_is_waited_for_until_its_reset_and_charged_to_nobody(self, world: World) -> None:
        world.submit("a", tasks={"a": AGENT})
        begin(world)
        resets = in_(timedelta(days=5))

        meet(world, resets)

        task = world.task("a")
        assert (task.state, task.failures, task.deferrals, task.deferred_since) == ("queued", 0, 1, None)
        assert timedelta(days=4, hours=23) < wait_of(world) < timedelta(days=5, hours=1)
        assert f"the weekly limit of claude with KEY is used up until {resets:%Y-%m-%d %H:%M:%S} UTC" in explained(
            world
        )
        assert "Weekly limit reached" in explained(world)
        with world.store.read() as tx:
            (attempt,) = attempts.of_task(tx, world.workspace, task.id)
        assert attempt.details == {
            "limit": {"account": "claude with KEY", "window": "weekly", "resets_at": resets.isoformat()}
        }

    def test_the_wait_is_no_time_in_which_it_asks_for_later(self, world: World) -> None:
        world.submit("a", tasks={"a": AGENT})
        begin(world)
        world.finish("a", Outcome.DEFERRED, error="busy")
        with world.store.write() as tx:
            tx.execute(update(tasks).values(deferred_since=db_after(-timedelta(days=3).total_seconds())))
        begin(world)

        meet(world, in_(timedelta(days=5)))

        assert (world.states(), world.task("a").deferred_since) == ({"a": "queued"}, None)

    def test_what_was_reserved_for_it_is_others_meanwhile(self, world: World) -> None:
        world.submit("a", "b", tasks={"a": AGENT}, budget=BudgetCap(Decimal(1)))
        world.claim("a", estimator=costing("0.80"))
        assert world.claim("b", estimator=costing("0.80")) == []

        meet(world, in_(timedelta(days=5)))

        assert (use(world).spent.usd, use(world).reserved.usd) == (0, 0)
        counted(world)
        world.tick()
        assert world.claim("b", estimator=costing("0.80")) == ["b"]

    def test_its_start_counts_and_the_last_one_is_explained(self, world: World) -> None:
        world.submit("a", tasks={"a": {**AGENT, "max_starts": 1}})
        begin(world)

        meet(world, in_(timedelta(days=5)))

        assert world.states() == {"a": "blocked"}
        assert "it has started 1 time, as often as max_starts allows; the last time: Weekly limit" in explained(world)
        assert "(the weekly limit of claude with KEY is used up until 20" in explained(world)

    def test_limits_without_end_are_left_to_a_person(self, world: World) -> None:
        world.submit("a", tasks={"a": {**AGENT, "max_starts": 1000}})
        begin(world)
        with world.store.write() as tx:
            tx.execute(update(tasks).values(deferrals=MAX_DEFERRALS - 1))

        meet(world, in_(timedelta(days=5)))

        assert world.states() == {"a": "blocked"}

    def test_a_plan_that_says_a_longest_wait_of_its_own_tries_sooner(self, world: World) -> None:
        world.submit(
            "a", tasks={"a": {**AGENT, "backoff": Backoff(timedelta(seconds=1), maximum=timedelta(minutes=2))}}
        )
        begin(world)

        meet(world, in_(timedelta(days=5)))

        assert timedelta(seconds=60) < wait_of(world) <= timedelta(minutes=2)
        assert world.task("a").deferred_since is not None

    @pytest.mark.parametrize("ago", [timedelta(seconds=1), timedelta(hours=5)])
    def test_a_reset_that_has_passed_is_waited_for_as_any_trouble(self, world: World, ago: timedelta) -> None:
        world.submit("a", tasks={"a": AGENT})
        begin(world)

        meet(world, in_(-ago))

        assert timedelta(0) < wait_of(world) < timedelta(seconds=10)

    def test_a_provider_that_asks_to_wait_is_waited_for(self, world: World) -> None:
        world.submit("a", tasks={"a": AGENT})
        begin(world)

        world.finish("a", Outcome.DEFERRED, error="429", not_before=in_(timedelta(seconds=90)))

        assert timedelta(seconds=60) < wait_of(world) < timedelta(seconds=100)
        assert "is used up" not in explained(world)


def test_what_an_agent_changed_is_kept_with_its_attempt_and_told(world: World) -> None:
    world.submit("a", tasks={"a": AGENT})
    begin(world)

    world.finish("a", effect=ChangeSummary(changed=False, refused=3))

    with world.store.read() as tx:
        (attempt,) = attempts.of_task(tx, world.workspace, world.task("a").id)
    assert attempt.details == {"effect": {"changed": False, "refused_tools": 3}}
