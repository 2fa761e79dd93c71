"""Test budgets that renew, and several at once: what counts in which period, and which of them stops a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection

from coordination.domain.money.budgets import Amount, Budget, BudgetPeriod, BudgetScope, BudgetUse
from coordination.domain.money.caps import parse_caps
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import Estimate
from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import Usage
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.flows.money.set_budget import set_budget
from coordination.services.attempts.end import build_cost_record
from coordination.services.money import budgets as service
from coordination.services.money import ledger
from coordination.store.queries.money import budgets
from tests.support.world import World


def dime(_tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Expect every job to cost ten cents."""
    return {row["id"]: Estimate(Decimal("0.10"), 0, 0, "plan") for row in rows}


def cap(
    world: World, scope: BudgetScope, subject: str, period: BudgetPeriod = BudgetPeriod.TOTAL, **caps: Any
) -> Budget:
    return world.store.transact(
        lambda tx: set_budget(tx, world.workspace, parse_caps(caps), scope=scope, subject=subject, period=period)
    )


def use(world: World, budget: Budget) -> BudgetUse:
    """Return the use of the budget's present period."""
    with world.store.read() as tx:
        starts, _ = service.current_period(tx, world.workspace, budget)
        return budgets.read_uses(tx, world.workspace, [(budget.id, starts)]).get(
            (budget.id, starts), BudgetUse(budget.id, starts)
        )


def cost(world: World, key: str, dollars: str, id_: str, at: datetime) -> CostRecord:
    return build_cost_record(world.claims[key], Usage("m", input_tokens=1, cost_usd=Decimal(dollars), id=id_), at)


def test_what_an_attempt_spends_after_midnight_counts_on_the_day_of_its_claim(world: World) -> None:
    world.submit("a")
    budget = cap(world, BudgetScope.PROJECT, world.project_id, BudgetPeriod.DAY, usd=1)
    world.claim("a", estimator=dime)
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    world.store.transact(lambda tx: checkpoint_costs(tx, world.workspace, [cost(world, "a", "0.04", "late", tomorrow)]))

    assert use(world, budget).spent == Amount(Decimal("0.04"), 1)
    assert use(world, budget).reserved.usd == Decimal("0.06")


@pytest.mark.parametrize("short", [BudgetScope.PROJECT, BudgetScope.RUN])
def test_any_budget_that_has_too_little_stops_a_running_job(world: World, short: BudgetScope) -> None:
    world.submit("a")
    for scope, subject in ((BudgetScope.PROJECT, world.project_id), (BudgetScope.RUN, world.run_id)):
        cap(world, scope, subject, usd="0.25" if scope is short else 9)
    world.claim("a", estimator=dime)
    record = cost(world, "a", "0.15", "1", datetime.now(UTC))

    stops = world.store.transact(lambda tx: checkpoint_costs(tx, world.workspace, [record]))

    assert {fence: lack.budget.scope for fence, lack in stops.items()} == {(world.ids["a"], 1): short}


def test_a_budget_of_a_day_counts_nothing_of_the_days_before(world: World) -> None:
    world.submit("a")
    world.claim("a", estimator=dime)
    now = datetime.now(UTC)
    records = [
        replace(cost(world, "a", dollars, id_, at), task_id=None, attempt=None)
        for dollars, id_, at in (("3.00", "old", now - timedelta(days=2)), ("0.20", "new", now))
    ]
    world.store.transact(lambda tx: ledger.append_records(tx, world.workspace, records))

    day = cap(world, BudgetScope.PROJECT, world.project_id, BudgetPeriod.DAY, usd=1)
    total = cap(world, BudgetScope.PROJECT, world.project_id, usd=9)

    assert use(world, day).spent.usd == Decimal("0.20")
    assert use(world, total).spent.usd == Decimal("3.20")


def test_a_tick_lets_only_as_many_go_on_as_there_is_money_for(world: World) -> None:
    world.submit("a", "b", "c", budget=BudgetCap(Decimal("0.05")))
    assert world.claim("a", "b", "c", estimator=dime) == []
    cap(world, BudgetScope.RUN, world.run_id, usd="0.25")

    world.tick(estimator=dime)

    assert sorted(world.states().values()) == ["blocked", "queued", "queued"]
