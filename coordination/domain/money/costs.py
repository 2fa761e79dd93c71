"""The cost record, and the ids of corrections and repeated reports. Records never change: corrections are new ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

TOKEN_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "total_tokens")
"""The fields of a cost record that count tokens."""


@dataclass(frozen=True, slots=True)
class CostRecord:
    """One model call, or a correction of one. ``cost_usd`` None: the price is unknown, which is not zero.

    ``stale``: spent by an attempt that had lost its lease. It counts like any other cost.
    ``extra``: fields of imported records that have no column here, unchanged; the prices of a computed cost.
    ``corrects``: the id of the record that this one corrects. A correction has no tokens and has the project, run,
    session and day of that record; its amount, which may be negative, is added to that record's.
    ``account``: the account on the worker's machine that made the call; None: that of the worker's environment.
    ``settles``: the corrected record had no price until this correction.
    ``agent_id``: the id of ``agent``; None until the record is stored.
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
    """Return the id of the first, second … correction of a record. Deterministic, so that repetitions add nothing."""
    return f"{corrected}~priced" if number == 1 else f"{corrected}~priced-{number}"


def correct(record: CostRecord, number: int, usd: Decimal, *, extra: dict[str, Any], settles: bool) -> CostRecord:
    """Return the correction of that number, which adds *usd* to the cost of a record."""
    no_tokens: dict[str, Any] = dict.fromkeys(TOKEN_COUNTS, 0)
    id_ = correction_id(record.id, number)
    return replace(record, id=id_, **no_tokens, cost_usd=usd, extra=extra, corrects=record.id, settles=settles)


_AGAIN = "~again-"


def repeat_id(reported: str, number: int) -> str:
    """Return the id of the second, third … record of a call that was reported again with a larger amount."""
    return f"{reported}{_AGAIN}{number}"


def id_with_attempt(record: CostRecord) -> str:
    """Return an id for a record whose own id is used by a call of another attempt."""
    return f"{record.id}@{record.task_id}.{record.attempt}"


def call_id(record: CostRecord) -> str:
    """Return the id or mark with which the job reported the call of a record."""
    name = record.id.removesuffix(f"@{record.task_id}.{record.attempt}")
    reported, again, number = name.rpartition(_AGAIN)
    return reported if again and number.isdecimal() else name
