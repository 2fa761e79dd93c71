"""Test that a running job's usage is written once, whether the heartbeat or the job's end writes it first."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.clock import utc_now
from coordination.domain.fleet.leases import LeaseTerms
from coordination.domain.money.budgets import Amount, Budget, BudgetScope, BudgetShortage, BudgetUse
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.usage_deltas import UsageDeltas
from coordination.domain.tasks.attempts import Claim, Usage
from coordination.services.attempts.end import build_cost_record
from coordination.store.engine import Store
from tests.support.jobs import claim_of
from tests.support.world import World
from workers.leases.heartbeat import Heartbeat
from workers.leases.in_flight import InFlightAttempts
from workers.leases.usage_meter import UsageMeter


class NoPrices:
    def add_cost(self, _claim: Claim, used: Usage) -> Usage:
        return used


@pytest.fixture
def usage_meter() -> UsageMeter:
    return UsageMeter(claim_of({"shell": "true"}), NoPrices())  # type: ignore[arg-type]


def used(tokens: int, dollars: str | None = None) -> Usage:
    return Usage("m", input_tokens=tokens, cost_usd=None if dollars is None else Decimal(dollars))


def line(number: int, dollars: str) -> Usage:
    return Usage("m", input_tokens=1, cost_usd=Decimal(dollars), line=("file", number))


def tokens(records: object) -> int:
    assert isinstance(records, list | tuple)
    return sum(one.total_tokens for one in records)


def test_the_heartbeat_finds_nothing_once_the_end_has_taken_the_rest(usage_meter: UsageMeter) -> None:
    usage_meter.set_usage([used(10)])

    rest, written = usage_meter.final_costs([used(10)])

    assert (tokens(rest), written) == (10, ())
    assert not usage_meter.has_unwritten
    assert usage_meter.due() == []


def test_what_the_heartbeat_may_have_written_goes_with_the_end_under_the_same_id(usage_meter: UsageMeter) -> None:
    usage_meter.set_usage([used(10)])
    due = usage_meter.due()

    rest, _ = usage_meter.final_costs([used(25)])
    usage_meter.mark_written(due)

    assert {one.id for one in due} <= {one.id for one in rest}
    assert tokens(rest) == 25
    assert usage_meter.due() == []


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(["nothing", "due", "wrote"])), max_size=12),
    st.none() | st.decimals(0, 10, places=4),
)
def test_whatever_is_written_when_it_adds_up_to_what_the_job_says_at_its_end(
    steps: list[tuple[int, str]], told: Decimal | None
) -> None:
    ids = count()
    ledger: dict[str, CostRecord] = {}
    claim = claim_of({"shell": "true"})

    def record(one: Usage) -> CostRecord:
        created = build_cost_record(claim, one, utc_now())
        return (
            created if one.id else build_cost_record(claim, Usage(**{**_fields(one), "id": f"r{next(ids)}"}), utc_now())
        )

    meter = UsageDeltas(lambda one: one, record)
    whole = 0
    for more, act in steps:
        whole += more
        if act != "nothing":
            result = meter.next_records([used(whole)])
            ledger |= {one.id: one for one in result}
            if act == "wrote":
                meter.confirm(result)
    ledger |= {one.id: one for one in meter.final_records([Usage("m", input_tokens=whole, cost_usd=told)])}

    assert sum(one.total_tokens for one in ledger.values()) == whole
    if told is not None:
        assert sum((one.cost_usd or Decimal(0) for one in ledger.values()), Decimal(0)) == told
        unknown = sum(one.cost_usd is None for one in ledger.values()) - sum(one.settles for one in ledger.values())
        assert unknown == 0


def _fields(one: Usage) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__slots__}


def test_what_cannot_be_stored_of_one_job_keeps_no_other_waiting(store: Store) -> None:
    world = World(store)
    world.submit("bad", "good")
    world.claim("bad", "good")
    in_flight = InFlightAttempts()
    for one in in_flight.add([world.claims["bad"], world.claims["good"]], sent=0.0):
        one.usage_meter = UsageMeter(one.claim, NoPrices())  # type: ignore[arg-type]
        one.usage_meter.set_usage([used(2**70 if one.claim.key == "bad" else 10, "0.5")])
    heartbeat = Heartbeat(store, in_flight, {"id": world.worker}, terms=LeaseTerms())

    heartbeat.checkpoint(all_=True)

    assert [(str(row.task_id), row.total_tokens) for row in world.sql("SELECT task_id, total_tokens FROM costs")] == [
        (world.ids["good"], 10)
    ]
    assert [claim.key for claim, _ in in_flight.usage_meters(all_=True)] == ["bad"]


def test_each_line_that_a_job_has_reported_is_one_record_however_often_it_is_read(usage_meter: UsageMeter) -> None:
    usage_meter.set_usage([line(1, "0.1"), line(2, "0.2")])
    early = usage_meter.due()
    usage_meter.mark_written(early)
    usage_meter.set_usage([line(1, "0.1"), line(2, "0.2"), line(3, "0.3"), used(5, "1")])
    unsure = usage_meter.due()

    rest, written = usage_meter.final_costs(
        [line(1, "0.1"), line(2, "0.2"), line(3, "0.3"), line(4, "0.4"), used(7, "3")]
    )

    every = {one.id: one for one in (*written, *rest)}
    assert [one.cost_usd for one in early] == [Decimal("0.1"), Decimal("0.2")]
    assert {one.id for one in unsure} <= {one.id for one in rest}
    assert sum(one.cost_usd or 0 for one in every.values()) == 4
    assert sum(one.total_tokens for one in every.values()) == 4 + 7


def test_a_line_that_was_written_over_is_another_call(usage_meter: UsageMeter) -> None:
    usage_meter.set_usage([line(1, "0.1")])
    usage_meter.mark_written(usage_meter.due())

    rest, written = usage_meter.final_costs([line(1, "0.3")])

    assert [one.cost_usd for one in (*written, *rest)] == [Decimal("0.1"), Decimal("0.3")]


@pytest.mark.parametrize(
    ("work", "repeatable", "spent", "ends"),
    [
        ({"shell": "true"}, True, "1.00", False),  # it may finish what it has begun
        ({"shell": "true"}, True, "1.01", True),
        ({"shell": "true"}, False, "1.01", False),  # it must not start another call
        ({"python": "a.b:c"}, True, "1.01", True),
        ({"chat": "openai:m", "prompt": "go"}, True, "0.50", True),  # it continues where it was
        ({"chat": "openai:m", "prompt": "go"}, False, "0.50", True),
    ],
)
def test_who_begins_anew_is_only_stopped_once_a_cap_is_passed(
    work: dict[str, str],
    repeatable: bool,  # noqa: FBT001 - a case
    spent: str,
    ends: bool,  # noqa: FBT001 - a case
) -> None:
    usage_meter = UsageMeter(replace(claim_of(work), repeatable=repeatable), NoPrices())  # type: ignore[arg-type]
    budget = Budget("b", BudgetScope.RUN, "r", usd=Decimal(1))
    short = BudgetShortage(
        budget, BudgetUse("b", "", spent=Amount(usd=Decimal(spent))), Amount(usd=Decimal("0.1")), "usd", passing=False
    )

    assert usage_meter.must_stop_for(short) is ends


def call(id_: str, dollars: str | None, tokens: int = 1, number: int = 1) -> Usage:
    cost = None if dollars is None else Decimal(dollars)
    return Usage("m", input_tokens=tokens, cost_usd=cost, id=id_, line=("file", number))


def test_a_call_that_is_reported_twice_is_one(usage_meter: UsageMeter) -> None:
    usage_meter.set_usage([call("x", "0.1")])
    usage_meter.mark_written(usage_meter.due())

    rest, written = usage_meter.final_costs([call("x", "0.1"), call("x", "0.1", number=2), call("y", "0.1", number=3)])

    assert sorted(one.id for one in (*written, *rest)) == ["x", "y"]
    assert usage_meter.warnings() == []


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("amounts", [("0.01", "0.03"), ("0.03", "0.01"), ("0.03", None), (None, "0.03")])
def test_of_several_amounts_of_a_call_the_largest_counts_and_all_are_said(
    usage_meter: UsageMeter,
    amounts: tuple[str | None, str | None],
    early: bool,  # noqa: FBT001 - a case
) -> None:
    first, second = call("x", amounts[0], 10), call("x", amounts[1], 40, number=2)
    if early:
        usage_meter.set_usage([first])
        usage_meter.mark_written(usage_meter.due())

    rest, written = usage_meter.final_costs([first, second])

    every = [*written, *rest]
    assert sum(one.cost_usd or 0 for one in every) == Decimal("0.03")
    assert tokens(every) == 40
    shown = ["no price" if one is None else f"${one}" for one in amounts]
    text = f"{shown[0]} for 10 tokens, {shown[1]} for 40 tokens"
    assert usage_meter.warnings() == [f"the call x was reported with several amounts, and the largest counts: {text}"]
    assert every[-1].extra["reported_amounts"] == ["unknown" if one is None else one for one in amounts]
    assert len({one.id for one in every}) == len(every)


def test_a_job_that_breaks_off_takes_nothing_back(usage_meter: UsageMeter) -> None:
    usage_meter.set_usage([used(10, "1"), line(1, "0.5")])
    usage_meter.mark_written(usage_meter.due())
    usage_meter.set_usage([used(30, "3"), line(1, "0.5"), line(2, "0.25")])

    rest, written = usage_meter.final_costs(())  # its runner failed and reports no usage

    assert sum(one.cost_usd or 0 for one in (*written, *rest)) == Decimal("3.75")
    assert tokens([*written, *rest]) == 32
