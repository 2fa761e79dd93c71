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
    ``extra``: fields of a foreign record that have no column here, kept as they came.
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
