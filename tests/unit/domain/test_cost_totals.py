"""Test sums of cost records: corrections are no calls, unknown prices are counted, every dimension has its own sum."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from coordination.domain.money.cost_totals import DIMENSIONS, CostTotal, TotalKey, sum_records
from coordination.domain.money.costs import CostRecord

AT = datetime(2027, 1, 31, 12, tzinfo=UTC)


def record(id_: str = "1", *, usd: str | None = "0.10", **fields: Any) -> CostRecord:
    of: dict[str, Any] = {"session_id": "s", "project_id": "p", "run_id": "r", "task_id": None, "attempt": None}
    tokens = {"input_tokens": 10, "output_tokens": 5, "cached_input_tokens": 2, "total_tokens": 15}
    rest: dict[str, Any] = {"agent": "ann", "agent_id": "ann", "model": "m", "stale": False, "occurred_at": AT}
    return CostRecord(id=id_, cost_usd=None if usd is None else Decimal(usd), **{**of, **tokens, **rest, **fields})


def correction(usd: str, *, settles: bool = False) -> CostRecord:
    none = {"input_tokens": 0, "output_tokens": 0, "cached_input_tokens": 0, "total_tokens": 0}
    return record("1~priced", usd=usd, corrects="1", settles=settles, **none)


def sum_of(*records: CostRecord) -> CostTotal:
    total = CostTotal()
    for one in records:
        total.add(one)
    return total


def test_a_correction_adds_dollars_and_no_call() -> None:
    total = sum_of(record(), correction("-0.04"))

    assert total == CostTotal(1, 0, 10, 5, 2, 15, Decimal("0.06"))


def test_a_call_of_unknown_price_counts_until_its_price_is_settled() -> None:
    unknown = sum_of(record(usd=None))
    settled = sum_of(record(usd=None), correction("0.20", settles=True))

    assert (unknown.calls, unknown.unpriced, unknown.cost_usd) == (1, 1, 0)
    assert (settled.calls, settled.unpriced, settled.cost_usd) == (1, 0, Decimal("0.20"))


def test_a_sum_and_what_takes_it_back_come_to_nothing() -> None:
    total = sum_of(record(), record("2", usd=None))

    total.merge(-total)

    assert total == CostTotal()


def test_records_add_up_by_day_and_month_in_every_dimension() -> None:
    records = [record(), record("2", usd="0.30", agent_id=None), record("3", usd="0.50", run_id="other")]

    cells = sum_records(records, {AT: "2027-01-31"})

    assert {cell.dimension for cell in cells} == set(DIMENSIONS)
    for grain, starts in (("day", "2027-01-31"), ("month", "2027-01-01")):
        assert cells[TotalKey("project", grain, starts, "", "p")].cost_usd == Decimal("0.90")
        assert cells[TotalKey("agent", grain, starts, "ann", "p")].cost_usd == Decimal("0.60")
        assert cells[TotalKey("agent", grain, starts, "", "p")].calls == 1
        assert cells[TotalKey("run", grain, starts, "r", "p")].cost_usd == Decimal("0.40")
