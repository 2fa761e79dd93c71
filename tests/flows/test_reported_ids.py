"""Test that calls are identified by their id and their attempt, and that a provider's bill matches them by their id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from io import BytesIO

import pytest

from coordination.base.errors import FormatError
from coordination.domain.money.costs import CostRecord, call_id, id_with_attempt, repeat_id
from coordination.domain.tasks.attempts import Usage
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.flows.money.import_costs import ImportResult, check_file, import_file
from coordination.services.attempts.end import build_cost_record
from coordination.store.disk_queue import DiskQueue
from coordination.store.queries.money import costs
from coordination.store.queries.projects import projects
from tests.support.refusals import refuses
from tests.support.world import World

NOW = datetime(2027, 1, 15, 12, tzinfo=UTC)


def call(world: World, key: str, id_: str, dollars: str = "0.50") -> CostRecord:
    """Return a call that the task's present attempt reports."""
    usage = Usage("m", input_tokens=10, cost_usd=Decimal(dollars), id=id_, at=NOW)
    return build_cost_record(world.claims[key], usage, NOW)


def report(world: World, *records: CostRecord) -> None:
    world.store.transact(partial(checkpoint_costs, workspace_id=world.workspace, records=records))


def bill(world: World, *lines: Sequence[str]) -> ImportResult:
    """Import a provider's bill: (id, dollars)."""
    numbers = {"model": "m", "input_tokens": 10, "output_tokens": 0, "total_tokens": 10}
    file = b"".join(
        json.dumps({"id": id_, "timestamp": NOW.isoformat(), "cost_usd": float(dollars), **numbers}).encode() + b"\n"
        for id_, dollars in lines
    )
    with DiskQueue() as spool:
        checked = check_file(world.store, world.workspace, BytesIO(file), spool, source="bill")
        with world.store.read() as tx:
            owner = projects.get(tx, world.workspace, world.project_id)
        assert owner is not None
        return import_file(world.store, world.workspace, spool, owner=owner, checked=checked, source="bill")


def ledger(world: World) -> list[CostRecord]:
    with world.store.read() as tx:
        return list(costs.each(tx, world.workspace))


@pytest.fixture
def world(world: World) -> World:
    world.submit("a", "b")
    world.claim("a", "b")
    return world


@pytest.mark.parametrize("together", [True, False])
def test_one_id_of_two_attempts_is_two_calls(world: World, together: bool) -> None:  # noqa: FBT001 - a case
    calls = [call(world, "a", "x1"), call(world, "b", "x1")]
    for _ in range(2):  # as after a commit whose answer was lost
        for some in [calls] if together else [[one] for one in calls]:
            report(world, *some)

    result = ledger(world)
    assert {(one.task_id, one.cost_usd) for one in result} == {
        (world.ids["a"], Decimal("0.50")),
        (world.ids["b"], Decimal("0.50")),
    }
    assert sorted(one.id for one in result) == sorted(["x1", id_with_attempt(calls[1])])
    assert [call_id(one) for one in result] == ["x1", "x1"]


def test_the_providers_bill_finds_what_was_reported(world: World) -> None:
    report(world, call(world, "a", "x1"), call(world, "b", "x2"))

    assert bill(world, ("x1", "0.50"), ("x2", "0.50"), ("x3", "0.50")).new == 1
    with refuses(FormatError, line=1):
        bill(world, ("x1", "0.60"))


def test_the_bill_is_held_against_all_that_counts_of_a_call(world: World) -> None:
    first = call(world, "a", "x1", "0.01")
    report(
        world, first, replace(first, id=repeat_id("x1", 2), input_tokens=0, total_tokens=0, cost_usd=Decimal("0.02"))
    )

    assert bill(world, ("x1", "0.03")).new == 0
    with refuses(FormatError, line=1):
        bill(world, ("x1", "0.02"))


def test_what_the_bill_said_first_is_the_same_call(world: World) -> None:
    bill(world, ("x1", "0.50"), ("x2", "0.50"))

    report(world, call(world, "a", "x1"), call(world, "b", "x2", "0.60"))

    assert sorted(one.cost_usd or 0 for one in ledger(world)) == [Decimal("0.50"), Decimal("0.50"), Decimal("0.60")]


def test_records_of_before_are_left_as_they_are(world: World) -> None:
    before = replace(call(world, "a", "x1"), attempt=7)
    report(world, before)

    report(world, call(world, "a", "x1"))

    assert {one.id for one in ledger(world)} == {"x1", f"x1@{world.ids['a']}.1"}
    assert sum(one.cost_usd or 0 for one in ledger(world)) == 1
