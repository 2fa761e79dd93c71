"""One record of the cost ledger. Append-only: a correction is another record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class CostRecord:
    """One model call. ``cost_usd`` None: the price is unknown, which is not zero.

    ``stale``: spent by an attempt whose lease was already gone; the money is gone all the same.
    ``extra``: fields of a foreign record that have no column here, kept as they came; of a cost that was computed, by
    which prices.
    ``corrects``: this is no call, but a correction of the record of that id: it has no tokens, stands where that one
    stands (project, run, session, day), and its amount, which may be negative, is added to that one's.
    ``account``: of its worker's machine, with which the call was made; None: what the worker's environment had.
    ``settles``: it gave that record, whose price was unknown, its price.
    ``agent_id``: that of ``agent``; None before it is stored, where only the name is known.
    """

    id: str
    session_id: str | None
    project_id: str | None
    run_id: str | None
    task_id: str | None
    attempt: int | None
    agent: str | None
    model: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    stale: bool
    occurred_at: datetime
    extra: dict[str, Any] = field(default_factory=dict)
    corrects: str | None = None
    settles: bool = False
    account: str | None = None
    agent_id: str | None = None


def correction_id(corrected: str, number: int) -> str:
    """The id of the first, second … correction of a record: the same for whoever makes it."""
    return f"{corrected}~priced" if number == 1 else f"{corrected}~priced-{number}"


_AGAIN = "~again-"


def again_id(reported: str, number: int) -> str:
    """The id of the second, third … record of a call that was reported again with a larger amount."""
    return f"{reported}{_AGAIN}{number}"


def own_id(record: CostRecord) -> str:
    """The id of a record whose own is that of another attempt's call: calls are known by their id and their attempt."""
    return f"{record.id}@{record.task_id}.{record.attempt}"


def call_id(record: CostRecord) -> str:
    """The id or mark by which its job has reported the call of a record."""
    name = record.id.removesuffix(f"@{record.task_id}.{record.attempt}")
    reported, again, number = name.rpartition(_AGAIN)
    return reported if again and number.isdecimal() else name
