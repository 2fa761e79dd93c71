"""Test combined ticks of many projects: only of those without work, and with the writes of a full tick."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update

from coordination.domain.plans.plans import BudgetCap, Concurrency
from coordination.flows.fleet import tick_supervisor as flow
from coordination.flows.fleet.tick_supervisor import tick_quiet
from coordination.flows.plans.submit_plan import submit_plan
from coordination.store.queries.fleet import idle_supervisors, supervisors
from coordination.store.tables.fleet.workers import supervisors as table
from coordination.store.types import db_after
from tests.support.world import World, plan_of

pytestmark = pytest.mark.hot_sql

OLD = timedelta(minutes=1)
REST = timedelta(minutes=1)


def ticked(world: World, *, enqueue_again_after: timedelta = REST, **settings: Any) -> bool:
    """Return whether the project was ticked as one without work."""
    ticks = tick_quiet(world.store, projects=[world.project_id], enqueue_again_after=enqueue_again_after, **settings)
    return ticks == [(world.workspace, world.project_id)]


def age_heartbeats(world: World) -> None:
    with world.store.write() as tx:
        tx.execute(update(table).values(heartbeat_at=db_after(-OLD.total_seconds()), state={}))


def row(world: World) -> Any:
    with world.store.read() as tx:
        return supervisors.get(tx, world.workspace, world.project_id)


def test_where_nothing_is_due_it_writes_what_a_full_tick_would_write(world: World) -> None:
    world.submit("a", "b < a")
    world.claim("a")
    world.tick()
    wanted = row(world).state
    age_heartbeats(world)

    assert ticked(world, lifetime=timedelta(hours=3))

    result = row(world)
    assert (result.state, result.error, result.ended_at) == (wanted, None, None)
    assert result.age < OLD / 2
    assert abs(result.expires_at - result.heartbeat_at - timedelta(hours=3)) < timedelta(seconds=5)


def test_a_project_without_open_work_is_ended_with_the_state_of_a_full_tick(world: World) -> None:
    world.submit("a")
    world.do("a")
    other = World(world.store, project="example.org/acme/other")
    other.submit("b")
    other.do("b")
    assert other.tick().ended

    assert ticked(world)

    assert row(world).ended_at is not None
    assert row(world).state == row(other).state
    assert not ticked(world), "it has ended"


def _lease_ran_out(world: World) -> None:
    world.submit("a")
    world.claim("a")
    world.expire("a")


def _start_time_came(world: World) -> None:
    from coordination.base.clock import utc_now

    world.submit("a", tasks={"a": {"not_before": utc_now() + timedelta(hours=1)}})
    world.make_due("a")


def _waits_for_money(world: World) -> None:
    tasks = {key: {"estimate": {"usd": "1"}} for key in "ab"}
    world.submit("a", "b", budget=BudgetCap(Decimal("1.5")), tasks=tasks)
    world.claim("a", "b")
    assert sorted(world.states().values()) == ["blocked", "running"]


def _not_enqueued(world: World) -> None:
    world.submit("a")


def _not_answered(world: World) -> None:
    world.submit("a")
    world.tick()
    world.sql("UPDATE tasks SET enqueued_at = created_at")


def _run_left_open(world: World) -> None:
    world.submit("a")
    world.do("a")
    world.sql("UPDATE runs SET finished_at = NULL")


def _limited(world: World) -> None:
    world.submit("a", concurrency=Concurrency(project=1))
    world.claim("a")


@pytest.mark.parametrize(
    "arrange",
    [_lease_ran_out, _start_time_came, _waits_for_money, _not_enqueued, _not_answered, _run_left_open, _limited],
)
def test_what_is_due_is_left_to_a_full_tick(world: World, arrange: Callable[[World], None]) -> None:
    arrange(world)
    age_heartbeats(world)

    assert not ticked(world, enqueue_again_after=timedelta(0))

    assert row(world).age >= OLD


def test_what_waits_for_something_else_keeps_nobody_busy(world: World) -> None:
    from coordination.base.clock import utc_now

    world.submit("a", "b < a", "later", tasks={"later": {"not_before": utc_now() + timedelta(hours=1)}})
    world.tick()

    assert ticked(world)


def test_a_project_that_is_ticked_now_is_left_alone(world: World) -> None:
    world.submit("a")
    world.claim("a")
    with world.store.write() as tx:
        supervisors.begin_tick(tx, world.workspace, world.project_id, owner="x", lease=timedelta(seconds=60))

    assert not ticked(world)


def test_one_call_takes_all_that_are_due_and_quiet_and_none_that_is_ticked_now(world: World) -> None:
    def another(name: str) -> World:
        ticks = World(world.store, project=f"example.org/acme/{name}")
        ticks.submit("a")
        return ticks

    running, busy, ticking, fresh = [another(name) for name in ("running", "busy", "ticking", "fresh")]
    for each in (running, ticking, fresh):
        each.claim("a")
    age_heartbeats(world)
    fresh.tick()
    with world.store.write() as tx:
        supervisors.begin_tick(tx, ticking.workspace, ticking.project_id, owner="x", lease=timedelta(seconds=60))

    ticks = tick_quiet(world.store, every=timedelta(seconds=20), enqueue_again_after=REST)

    assert ticks == [(running.workspace, running.project_id)]
    assert row(busy).age >= OLD
    assert tick_quiet(world.store, every=timedelta(seconds=20), enqueue_again_after=REST) == []


def test_work_submitted_before_the_end_is_written_is_not_stranded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit("a")
    world.do("a")
    real = idle_supervisors.end

    def submits_first(tx: Any, projects: Any, **rest: Any) -> set[str]:
        submit_plan(tx, world.workspace, plan_of("late"), world.origin())
        return real(tx, projects, **rest)

    monkeypatch.setattr(flow.idle_supervisors, "end", submits_first)

    assert ticked(world)

    assert row(world).ended_at is None
    assert [ready.key for ready in world.tick().ring] == ["late"]
