"""Test that a write which is repeated, because its first commit got no answer, changes no counter a second time."""

from __future__ import annotations

from decimal import Decimal

from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import Outcome
from tests.flows.test_budgets import checkpoint, costing, counted, spent, use
from tests.support.world import World


def test_a_job_at_its_cap_is_stopped_the_second_time_too_and_takes_nothing_from_others(world: World) -> None:
    world.submit("a", "b", budget=BudgetCap(Decimal(1)))
    world.claim("a", "b", estimator=costing("0.40"))
    first = checkpoint(world, "a", spent("0.45", id_="1"))

    again = checkpoint(world, "a", spent("0.45", id_="1"))

    assert [why.sentence() for why in again.values()] == [why.sentence() for why in first.values()]
    assert len(again) == 1
    counted(world)
    world.finish("a", Outcome.DEFERRED, budget_shortage="no money", usage=(spent("0.45", id_="1"),))
    assert use(world).reserved.usd == Decimal("0.40"), "that is b's"
    counted(world)


def test_what_is_reserved_for_another_call_is_reserved_once(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal(9)))
    world.claim("a", estimator=costing("0.40"))

    for _ in range(3):
        assert checkpoint(world, "a", spent("0.45", id_="1")) == {}

    assert (use(world).spent.usd, use(world).reserved.usd) == (Decimal("0.45"), Decimal("0.45"))
    counted(world)
