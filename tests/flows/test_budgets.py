"""Test that budgets hold: reserved in the claim, moved by checkpoints, settled at the end, whatever happens between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection

from coordination.base.errors import NotFound, Refused
from coordination.domain.money.budgets import Amount, BudgetPeriod, BudgetScope, BudgetUse
from coordination.domain.money.caps import parse_caps
from coordination.domain.money.estimates import Estimate
from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import Outcome, Usage
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.flows.money.set_budget import remove_budget, set_budget
from coordination.services.attempts.end import build_cost_record
from coordination.services.money import budgets as service
from coordination.services.money import ledger
from coordination.store.queries.money import budgets
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import tasks
from tests.support.golden_sentences import check_sentence
from tests.support.refusals import refuses
from tests.support.world import World

DIME = Decimal("0.10")


def costing(dollars: str, tokens: int = 0, unpriced: int = 0) -> service.Estimator:
    """Expect every job to cost this."""

    def estimates(_tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        return {row["id"]: Estimate(Decimal(dollars), tokens, unpriced, "plan") for row in rows}

    return estimates


def spent(dollars: str | None, tokens: int = 10, id_: str | None = None) -> Usage:
    return Usage("m", input_tokens=tokens, cost_usd=None if dollars is None else Decimal(dollars), id=id_)


def use(world: World, scope: BudgetScope = BudgetScope.RUN, period: BudgetPeriod = BudgetPeriod.TOTAL) -> BudgetUse:
    """Return the use of the only budget of that scope."""
    with world.store.read() as tx:
        (one,) = [
            each for each in budgets.list_budgets(tx, world.workspace) if (each.scope, each.period) == (scope, period)
        ]
        starts, _ = service.current_period(tx, world.workspace, one)
        result = budgets.read_uses(tx, world.workspace, [(one.id, starts)])
    return result.get((one.id, starts), BudgetUse(one.id, starts))


def counted(world: World) -> None:
    """Check that the counters match the ledger and the attempts."""
    with world.store.write() as tx:
        for one in budgets.list_budgets(tx, world.workspace):
            starts, _ = service.current_period(tx, world.workspace, one)
            before = budgets.read_uses(tx, world.workspace, [(one.id, starts)]).get(
                (one.id, starts), BudgetUse(one.id, starts)
            )
            after = service.recount(tx, world.workspace, one)
            assert (after.spent, after.reserved) == (before.spent, before.reserved), one


def set_(
    world: World,
    scope: BudgetScope,
    subject: str | None = None,
    *,
    period: BudgetPeriod = BudgetPeriod.TOTAL,
    **caps: Any,
) -> None:
    world.store.transact(
        lambda tx: set_budget(tx, world.workspace, parse_caps(caps), scope=scope, subject=subject, period=period)
    )


def test_as_many_as_fit_are_claimed_and_the_rest_waits_for_money(world: World) -> None:
    world.submit("a", "b", "c", budget=BudgetCap(Decimal("0.25")))

    assert world.claim("a", "b", "c", estimator=costing("0.10")) == ["a", "b"]

    assert world.states() == {"a": "running", "b": "running", "c": "blocked"}
    assert world.task("c").reasons == BlockReason.BUDGET
    assert use(world).reserved == Amount(Decimal("0.20"))
    counted(world)


def test_what_was_not_needed_is_given_back_and_lets_another_go_on(world: World) -> None:
    world.submit("a", "b", "c", budget=BudgetCap(Decimal("0.25")))
    world.claim("a", "b", "c", estimator=costing("0.10"))

    finished = world.finish("a", usage=(spent("0.03"),))

    assert finished.effects.money_returned
    assert use(world).spent == Amount(Decimal("0.03"), 10)
    assert use(world).reserved == Amount(DIME)
    world.tick(estimator=costing("0.10"))
    assert world.states("c") == {"c": "queued"}
    assert world.claim("c", estimator=costing("0.10")) == ["c"]
    counted(world)


def test_a_cap_that_is_spent_holds_until_it_is_raised(world: World) -> None:
    world.submit("a", "b", budget=BudgetCap(DIME))
    world.claim("a", estimator=costing("0.10"))
    world.finish("a", usage=(spent("0.10"),))

    assert world.claim("b", estimator=costing("0.10")) == []
    world.tick(estimator=costing("0.10"))
    assert world.states("b") == {"b": "blocked"}

    set_(world, BudgetScope.RUN, world.run_id, usd="0.20")
    world.tick(estimator=costing("0.10"))
    assert world.claim("b", estimator=costing("0.10")) == ["b"]


def test_every_scope_that_applies_is_asked(world: World) -> None:
    world.submit("a", "b", tasks={"a": {"agent": "ann"}, "b": {"agent": "ann", "budget": BudgetCap(Decimal(9))}})
    set_(world, BudgetScope.WORKSPACE, usd=5, period=BudgetPeriod.MONTH)
    set_(world, BudgetScope.PROJECT, world.project_id, usd=5, period=BudgetPeriod.DAY)
    set_(world, BudgetScope.AGENT, "ann", usd="0.15")

    assert world.claim("a", "b", estimator=costing("0.10")) == ["a"]

    for scope, period in (
        (BudgetScope.WORKSPACE, BudgetPeriod.MONTH),
        (BudgetScope.PROJECT, BudgetPeriod.DAY),
        (BudgetScope.AGENT, BudgetPeriod.TOTAL),
    ):
        assert use(world, scope, period).reserved == Amount(DIME)
    world.finish("a", usage=(spent("0.04"),))
    for scope, period in (
        (BudgetScope.WORKSPACE, BudgetPeriod.MONTH),
        (BudgetScope.PROJECT, BudgetPeriod.DAY),
        (BudgetScope.AGENT, BudgetPeriod.TOTAL),
    ):
        assert use(world, scope, period).spent == Amount(Decimal("0.04"), 10)
        assert not use(world, scope, period).reserved
    counted(world)


@pytest.mark.parametrize("how", ["handed back", "canceled", "failed", "lost"])
def test_whatever_ends_an_attempt_gives_its_money_back_once(world: World, how: str) -> None:
    world.submit("a", budget=BudgetCap(Decimal(1)))
    world.claim("a", estimator=costing("0.40"))
    if how == "lost":
        world.expire("a")
        world.tick(estimator=costing("0.40"))
    elif how == "canceled":
        world.cancel("a")
        world.finish("a", Outcome.CANCELED)
    else:
        world.finish("a", Outcome.FAILED if how == "failed" else Outcome.HANDED_BACK, error="no")

    assert not use(world).reserved
    counted(world)

    world.finish("a", usage=(spent("0.07", id_="late"),))  # the old attempt reports its usage once more
    assert use(world).spent.usd == Decimal("0.07")
    world.finish("a", usage=(spent("0.07", id_="late"),))
    assert (use(world).spent.usd, use(world).reserved.usd) == (Decimal("0.07"), 0)
    counted(world)


def checkpoint(world: World, key: str, *used: Usage) -> dict[tuple[str, int], Any]:
    claim = world.claims[key]
    records = [build_cost_record(claim, one, datetime.now(UTC)) for one in used]
    return world.store.transact(lambda tx: checkpoint_costs(tx, world.workspace, records))


def test_a_checkpoint_moves_money_from_reserved_to_spent(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal(1)))
    world.claim("a", estimator=costing("0.40"))

    assert checkpoint(world, "a", spent("0.15", id_="1")) == {}

    assert use(world).spent.usd == Decimal("0.15")
    assert use(world).reserved.usd == Decimal("0.25")
    checkpoint(world, "a", spent("0.15", id_="1"))  # reported twice
    assert use(world).reserved.usd == Decimal("0.25")
    world.finish("a", usage=(spent("0.15", id_="1"), spent("0.05", id_="2")))
    assert (use(world).spent.usd, use(world).reserved.usd) == (Decimal("0.20"), 0)
    counted(world)


def test_another_call_like_the_dearest_is_reserved_or_the_job_is_stopped(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal(1)))
    world.claim("a", estimator=costing("0.40"))

    assert checkpoint(world, "a", spent("0.35", id_="1")) == {}
    assert use(world).reserved.usd == Decimal("0.35")
    ((fence, why),) = checkpoint(world, "a", spent("0.35", id_="2")).items()

    assert fence == (world.ids["a"], 1)
    check_sentence(why.sentence())
    assert use(world).spent.usd == Decimal("0.70")
    assert use(world).committed.usd <= 1
    counted(world)


def test_a_job_stopped_for_want_of_money_waits_and_goes_on_when_there_is_more(world: World) -> None:
    world.submit("a", tasks={"a": {"budget": BudgetCap(Decimal("0.60"))}})
    world.claim("a", estimator=costing("5.00"))  # it cannot exceed its own cap
    assert use(world, BudgetScope.TASK).reserved.usd == Decimal("0.60")
    assert checkpoint(world, "a", spent("0.35", id_="1"))

    world.finish(
        "a",
        Outcome.DEFERRED,
        budget_shortage="the task's budget is short",
        output="half of it",
        carry_over={"needs": {"usd": "0.35"}},
    )

    assert world.states() == {"a": "blocked"}
    assert world.task("a").reasons == BlockReason.BUDGET
    (attempt,) = world.attempts("a")
    assert attempt.output == "half of it"
    world.tick(estimator=costing("0.01"))
    assert world.states() == {"a": "blocked"}, "what is left is less than another call needs"

    set_(world, BudgetScope.TASK, world.ids["a"], usd="0.70")
    world.tick(estimator=costing("0.01"))
    assert world.claim("a", estimator=costing("0.01")) == ["a"]
    assert world.task("a").failures == 0
    counted(world)


def test_calls_of_unknown_price_have_a_cap_of_their_own(world: World) -> None:
    world.submit("a", "b", "c", budget=BudgetCap(Decimal(5), max_unpriced_calls=1))
    assert world.claim("a", estimator=costing("0", unpriced=1)) == ["a"]
    assert world.claim("b", estimator=costing("0", unpriced=1)) == []
    world.finish("a", usage=(spent(None),))

    assert use(world).spent == Amount(Decimal(0), 10, 1)
    world.tick(estimator=costing("0", unpriced=1))
    assert world.states("b") == {"b": "blocked"}
    assert world.claim("c", estimator=costing("0.10")) == ["c"], "what has a price may go on"


def test_a_cap_in_dollars_allows_no_call_of_unknown_price_unless_it_says_so(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal(5)))

    assert world.claim("a", estimator=costing("0", unpriced=1)) == []


def test_tokens_are_capped_like_dollars(world: World) -> None:
    world.submit("a", "b", budget=BudgetCap(tokens=150))

    assert world.claim("a", "b", estimator=costing("0", tokens=100)) == ["a"]
    world.finish("a", usage=(spent("0.5", tokens=40),))
    world.tick(estimator=costing("0", tokens=100))
    assert world.claim("b", estimator=costing("0", tokens=100)) == ["b"]
    counted(world)


def test_a_budget_that_only_warns_holds_nothing_back_and_tells_it_once(world: World) -> None:
    world.submit("a", "b", "c", budget=BudgetCap(DIME, on_exceed="warn"))

    assert world.claim("a", "b", "c", estimator=costing("0.10")) == ["a", "b", "c"]
    for key in "abc":
        world.finish(key, usage=(spent("0.09"),))

    assert [row.type for row in world.sql("SELECT type FROM events WHERE type LIKE 'budget%' ORDER BY seq")] == [
        "budget_warned",
        "budget_reached",
    ]


def test_a_downgrade_gives_later_jobs_the_cheaper_model(world: World) -> None:
    chat = {"run": {"chat": "openai:big", "prompt": "x"}}
    cap = BudgetCap(Decimal(1), on_exceed="downgrade", warn_at=50, downgrade_to="openai:small")
    world.submit("a", "b", "c", tasks={"a": chat, "b": chat, "c": chat}, budget=cap)

    def by_model(_tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        return {
            row["id"]: Estimate(Decimal("0.40" if row["work"]["chat"].endswith("big") else "0.20"), 0, 0, "plan")
            for row in rows
        }

    assert world.claim("a", "b", "c", estimator=by_model) == ["a", "b", "c"]

    models = [world.claims[key].work["chat"] for key in "abc"]
    assert models == ["openai:big", "openai:small", "openai:small"]
    assert use(world).reserved.usd == Decimal("0.80")


def test_a_downgrade_to_a_model_that_the_project_denies_does_not_end_the_job(world: World) -> None:
    chat = {"run": {"chat": "openai:big", "prompt": "x"}}
    cap = BudgetCap(Decimal(1), on_exceed="downgrade", warn_at=50, downgrade_to="openai:small")
    world.submit("a", "b", "c", tasks={"a": chat, "b": chat, "c": chat}, budget=cap)
    with world.store.write() as tx:
        projects.change(tx, world.workspace, world.project_id, model_restrictions={"deny": ["*small"]})

    assert world.claim("a", "b", "c", estimator=costing("0.40")) == ["a", "b"]
    assert [world.claims[key].work["chat"] for key in "ab"] == ["openai:big", "openai:big"]


def test_an_agent_of_which_nothing_is_known_reserves_a_dollar_at_most(world: World) -> None:
    chat = {"run": {"chat": "openai:big", "prompt": "x"}}
    world.submit("a", "b", tasks={"a": chat, "b": chat}, budget=BudgetCap(Decimal("0.50")))

    def unknown(_tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        return {row["id"]: Estimate(Decimal(0), 0, 0, "unknown") for row in rows}

    assert world.claim("a", "b", estimator=unknown) == ["a"]
    assert use(world).reserved.usd == Decimal("0.50")


def test_a_budget_set_later_knows_what_was_spent_and_what_runs(world: World) -> None:
    world.submit("a", "b", "c", budget=BudgetCap(Decimal(9)))
    world.claim("a", "b", estimator=costing("0.40"))
    world.finish("a", usage=(spent("0.25"),))

    set_(world, BudgetScope.PROJECT, world.project_id, usd=1, period=BudgetPeriod.DAY)

    assert use(world, BudgetScope.PROJECT, BudgetPeriod.DAY).spent.usd == Decimal("0.25")
    assert use(world, BudgetScope.PROJECT, BudgetPeriod.DAY).reserved.usd == Decimal("0.40")
    assert world.claim("c", estimator=costing("0.40")) == []
    world.finish("b", usage=(spent("0.10"),))
    assert use(world, BudgetScope.PROJECT, BudgetPeriod.DAY).committed.usd == Decimal("0.35")
    counted(world)


@pytest.mark.parametrize(
    ("caps", "field"),
    [
        ({"usd": -1}, "usd"),
        ({"usd": "NaN"}, "usd"),
        ({"usd": "1e309"}, "usd"),
        ({"usd": "0." + "1" * 31}, "usd"),
        ({"usd": "5 EUR"}, "usd"),
        ({"eur": 5}, "eur"),
        ({}, None),
        ({"usd": 1, "tokens": -5}, "tokens"),
        ({"usd": 1, "warn_at": 0}, "warn_at"),
        ({"usd": 1, "on_exceed": "explode"}, "on_exceed"),
        ({"usd": 1, "on_exceed": "downgrade"}, "downgrade_to"),
    ],
)
def test_caps_that_make_no_sense_are_refused(caps: dict[str, Any], field: str | None) -> None:
    with refuses(Refused, field=field):
        parse_caps(caps)


def test_a_cap_below_what_is_spent_is_refused_and_changes_nothing(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal(2)))
    world.claim("a", estimator=costing("1"))
    world.finish("a", usage=(spent("0.75"),))

    with refuses(Refused):
        set_(world, BudgetScope.RUN, world.run_id, usd="0.50")

    with world.store.read() as tx:
        (one,) = budgets.list_budgets(tx, world.workspace)
    assert one.usd == 2


def test_what_there_is_not_has_no_budget(world: World) -> None:
    world.submit("a")
    with pytest.raises(NotFound):
        set_(world, BudgetScope.RUN, world.workspace, usd=1)


def test_without_its_budget_what_waited_goes_on(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal("0.01")))
    assert world.claim("a", estimator=costing("0.10")) == []
    with world.store.write() as tx:
        (one,) = budgets.list_budgets(tx, world.workspace)
        remove_budget(tx, world.workspace, one.id)

    world.tick(estimator=costing("0.10"))

    assert world.claim("a", estimator=costing("0.10")) == ["a"]


def test_what_costs_nothing_runs_whatever_is_spent(world: World) -> None:
    world.submit("a", "b", budget=BudgetCap(DIME))
    world.claim("a", estimator=costing("0.10"))
    world.finish("a", usage=(spent("0.30"),))

    assert world.claim("b", estimator=costing("0")) == ["b"]


def test_tasks_with_slots_and_money_take_both_or_none(world: World) -> None:
    world.submit(
        "a", "b", "c", budget=BudgetCap(Decimal("0.25")), tasks={key: {"concurrency_key": "k"} for key in "ab"}
    )

    assert world.claim("a", "b", "c", estimator=costing("0.20")) == ["a"]
    assert world.states() == {"a": "running", "b": "queued", "c": "blocked"}
    world.finish("a", usage=(spent("0.01"),))
    assert world.claim("b", estimator=costing("0.20")) == ["b"]
    with world.store.read() as tx:
        assert tasks.open_states(tx, world.workspace, world.run_id)
    counted(world)


def test_every_digit_counts(world: World) -> None:
    tiny = Decimal("0.000000000000000000000000000001")
    world.submit("a", "b", budget=BudgetCap(Decimal(1_000_000)))
    world.claim("a", "b", estimator=costing("100000"))
    world.finish("a", usage=(spent("99999.999"),))
    world.finish("b", usage=(spent(f"{tiny:f}"),))

    assert f"{use(world).spent.usd:f}" == "99999.999000000000000000000000000001"
    counted(world)


def test_what_retention_took_out_of_the_ledger_stays_spent(world: World) -> None:
    world.submit("a", "b", budget=BudgetCap(Decimal(1)))
    world.claim("a", estimator=costing("0.90"))
    world.finish("a", usage=(spent("0.80", id_="old"),))
    world.store.transact(lambda tx: ledger.delete_records(tx, world.workspace, ["old"]))

    counted(world)

    assert use(world).spent.usd == Decimal("0.80")
    assert world.claim("b", estimator=costing("0.90")) == []


def test_a_job_of_which_nothing_is_known_goes_on_with_what_is_left(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal("0.50")))

    def unknown(_tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        return {row["id"]: Estimate(Decimal(0), 0, 0, "unknown") for row in rows}

    world.claim("a", estimator=unknown)
    checkpoint(world, "a", spent("0.20", id_="1"))
    world.expire("a")
    world.tick(estimator=unknown)

    assert world.claim("a", estimator=unknown) == ["a"]
    assert (use(world).spent.usd, use(world).reserved.usd) == (Decimal("0.20"), Decimal("0.30"))
    counted(world)


def test_what_a_job_has_reserved_itself_is_not_in_its_own_way(world: World) -> None:
    world.submit("a", budget=BudgetCap(Decimal("0.50")))
    world.claim("a", estimator=costing("0.50"))

    ((_, why),) = checkpoint(world, "a", spent("0.30", id_="1")).items()

    check_sentence(why.sentence())
    assert not why.passing


def test_an_agent_that_nobody_knows_has_no_budget(world: World) -> None:
    world.submit("a", tasks={"a": {"agent": "ann"}})

    with refuses(NotFound):
        set_(world, BudgetScope.AGENT, "amm", usd=1)
    set_(world, BudgetScope.AGENT, "ann", usd=1)


def test_tasks_that_wait_are_told_apart_by_the_budget_that_holds_them(world: World) -> None:
    world.submit("a", "b", "c", tasks={"a": {"budget": BudgetCap(DIME)}}, budget=BudgetCap(Decimal("0.15")))
    assert world.claim("b", estimator=costing("0.12")) == ["b"]
    assert world.claim("a", "c", estimator=costing("0.12")) == []

    with world.store.read() as tx:
        lacks = service.find_waiting_shortages(tx, world.workspace, costing("0.12"), run_id=world.run_id)
        standings = service.read_statuses(tx, world.workspace, budgets.list_budgets(tx, world.workspace), lacks)

    assert {task_id: lack.budget.scope for task_id, lack in lacks.items()} == {
        world.ids["a"]: BudgetScope.RUN,
        world.ids["c"]: BudgetScope.RUN,
    }
    assert {one.scope: one.waiting for one in standings} == {BudgetScope.RUN: 2, BudgetScope.TASK: 0}


def test_an_import_of_very_many_sessions_counts_too(world: World) -> None:
    world.submit("a")
    set_(world, BudgetScope.PROJECT, world.project_id, usd=10_000)
    world.claim("a")
    one = build_cost_record(world.claims["a"], spent("0.01"), datetime.now(UTC))
    many = [replace(one, id=f"r{n}", session_id=f"s{n}", task_id=None, attempt=None) for n in range(3_000)]

    world.store.transact(lambda tx: ledger.append_records(tx, world.workspace, many))

    assert use(world, BudgetScope.PROJECT).spent.usd == 30
    counted(world)


@pytest.mark.parametrize("later", [(), ("0.02",)], ids=["all was written before", "the end brings more"])
def test_what_a_heartbeat_reserved_for_a_budget_that_was_set_later_comes_back_at_the_end(
    world: World, later: tuple[str, ...]
) -> None:
    world.submit("a", "b")
    assert world.claim("a") == ["a"]
    assert not world.claims["a"].budgeted
    set_(world, BudgetScope.RUN, world.run_id, usd=1)
    written = (build_cost_record(world.claims["a"], spent("0.03", id_="first"), datetime.now(UTC)),)
    world.store.transact(lambda tx: checkpoint_costs(tx, world.workspace, written))
    assert use(world).reserved.usd == Decimal("0.03")

    rest = tuple(build_cost_record(world.claims["a"], spent(usd), datetime.now(UTC)) for usd in later)
    world.write(replace(world.decide("a"), costs=rest, recorded_costs=written, has_reservation=True))

    assert use(world).reserved == Amount()
    assert use(world).spent.usd == Decimal("0.03") + sum(map(Decimal, later), Decimal(0))
    counted(world)


def test_it_comes_back_from_a_canceled_attempt_too(world: World) -> None:
    world.submit("a")
    world.claim("a")
    set_(world, BudgetScope.RUN, world.run_id, usd=1)
    written = (build_cost_record(world.claims["a"], spent("0.03", id_="first"), datetime.now(UTC)),)
    world.store.transact(lambda tx: checkpoint_costs(tx, world.workspace, written))

    world.cancel("a")
    world.write(replace(world.decide("a", Outcome.CANCELED), recorded_costs=written, has_reservation=True))

    assert use(world).reserved == Amount()
    counted(world)


def test_a_hold_says_which_budget_it_is_for_and_goes_when_that_is_raised(world: World) -> None:
    world.submit("a", "b", budget=BudgetCap(DIME))
    world.claim("a", estimator=costing("0.10"))
    world.claim("b", estimator=costing("0.10"))
    with world.store.read() as tx:
        (budget,) = budgets.list_budgets(tx, world.workspace)

    stored = world.sql("SELECT reason, subject FROM task_holds WHERE task_id = :id", id=world.ids["b"])
    set_(world, BudgetScope.RUN, world.run_id, usd="0.20")
    world.tick(estimator=costing("0.10"))

    assert stored == [("budget", budget.id)]
    assert world.states("b") == {"b": "queued"}
    assert world.sql("SELECT count(*) FROM task_holds") == [(0,)]
