"""Test append-only tables, costs and events, and a tail that misses no row, in any order of commits."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from coordination.base.errors import Refused
from coordination.domain.money.costs import CostRecord
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.store.engine import open_store
from coordination.store.queries.money import costs
from coordination.store.queries.tasks import events
from tests.support.refusals import refuses
from tests.support.world import World


def record(name: str, usd: str | None = "0.1", **fields) -> CostRecord:
    return CostRecord(
        **{
            "id": name,
            "session_id": None,
            "project_id": None,
            "run_id": None,
            "task_id": None,
            "attempt": None,
            "agent": None,
            "model": "m",
            "input_tokens": 1,
            "output_tokens": 2,
            "cached_input_tokens": 0,
            "total_tokens": 3,
            "cost_usd": None if usd is None else Decimal(usd),
            "stale": False,
            "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
            **fields,
        }
    )


def test_the_cost_ledger_refuses_to_be_changed(world: World) -> None:
    with world.store.write() as tx:
        costs.append(tx, world.workspace, [record("one")])

    with pytest.raises(DBAPIError, match="append-only"), world.store.write() as tx:
        tx.execute(
            text("UPDATE costs SET cost_usd = '0'" if tx.dialect.name == "sqlite" else "UPDATE costs SET cost_usd = 0")
        )

    with world.store.read() as tx:
        assert costs.total(tx, world.workspace) == (Decimal("0.1"), 1, 0)


def test_a_record_is_billed_once_per_workspace(world: World) -> None:
    other = World(world.store, "other")

    with world.store.write() as tx:
        assert len(costs.append(tx, world.workspace, [record("one"), record("two", None)])) == 2
        assert [one.id for one in costs.append(tx, world.workspace, [record("one", "9"), record("three")])] == ["three"]
        assert len(costs.append(tx, other.workspace, [record("one", "5")])) == 1

    with world.store.read() as tx:
        assert costs.total(tx, world.workspace) == (Decimal("0.2"), 3, 1)
        assert costs.total(tx, other.workspace) == (Decimal(5), 1, 0)
        assert [result.id for result in costs.each(tx, world.workspace)] == ["one", "three", "two"]


def test_thousands_of_records_add_up_to_the_cent(world: World) -> None:
    with world.store.write() as tx:
        costs.append(tx, world.workspace, [record(f"r{n}") for n in range(3_000)])

    with world.store.read() as tx:
        assert costs.total(tx, world.workspace) == (Decimal(300), 3_000, 0)


def test_no_code_changes_an_event() -> None:
    assert "update(" not in inspect.getsource(events)


def note(tx, world: World, why: str) -> None:
    event = NewEvent(EventType.PROGRESS, world.project_id, world.run_id, payload={"why": why})
    events.append(tx, world.workspace, [event])


def whys(world: World, after: str) -> tuple[list[str], str]:
    with world.store.read() as tx:
        rows = events.tail(tx, world.workspace, run_id=world.run_id, after=after)
    return [event.payload["why"] for event in rows if "why" in event.payload], rows[-1].cursor if rows else after


def test_a_tail_goes_on_where_it_stopped(world: World) -> None:
    world.submit("a")
    with world.store.write() as tx:
        note(tx, world, "one")
        note(tx, world, "two")
    seen, cursor = whys(world, events.START)
    assert seen == ["one", "two"]
    assert whys(world, cursor) == ([], cursor)

    with world.store.write() as tx:
        note(tx, world, "three")

    assert whys(world, cursor)[0] == ["three"]


def test_a_tail_misses_nothing_when_a_later_event_is_committed_first(postgres_url: str) -> None:
    world = World(open_store(postgres_url))
    world.submit("a")
    _, cursor = whys(world, events.START)

    with world.store.write() as slow:
        note(slow, world, "early, committed late")
        with world.store.write() as quick:
            note(quick, world, "late, committed early")
        first, cursor = whys(world, cursor)
    second, cursor = whys(world, cursor)

    assert first + second == ["early, committed late", "late, committed early"]
    assert whys(world, cursor)[0] == []
    world.store.close()


def test_events_of_the_past_keep_their_age(world: World) -> None:
    world.submit("a")
    with world.store.write() as tx:
        started = NewEvent(EventType.STARTED, world.project_id, world.run_id, age=timedelta(seconds=90))
        events.append_aged(tx, world.workspace, [started])

    with world.store.read() as tx:
        submitted, *_, last = events.tail(tx, world.workspace, run_id=world.run_id)

    assert timedelta(seconds=80) < submitted.at - last.at <= timedelta(seconds=90)


@pytest.mark.parametrize("cursor", ["", "1", "1.", ".1", "a.b", "1.2.3", "-1.0", "²3.1", "9" * 30 + ".1", "1.0 "])
def test_a_cursor_that_is_none_is_refused(world: World, cursor: str) -> None:
    with world.store.read() as tx, refuses(Refused):
        events.tail(tx, world.workspace, after=cursor)
