"""Totals of cost records: calls, tokens and dollars by day and month, and by project, session, agent, model, run.

A correction adds its dollars but is not a call. If it gives a call its price, the call is no longer unpriced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from coordination.base.clock import month_of
from coordination.base.money import ZERO, minus, plus
from coordination.domain.money.costs import TOKEN_COUNTS, CostRecord

DIMENSIONS = ("project", "session", "agent", "model", "run")
DAY, MONTH = "day", "month"


class TotalKey(NamedTuple):
    """The key of a total: a dimension's key in a project (empty text: none), over one day or month."""

    dimension: str
    grain: str
    starts: str
    key: str
    project_id: str


@dataclass(slots=True)
class CostTotal:
    """The total of some records. ``cost_usd`` is that of calls with a known price, ``unpriced`` counts the others."""

    calls: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    total_tokens: int = 0
    cost_usd: Decimal = ZERO

    def add(self, record: CostRecord) -> None:
        """Add one record."""
        if record.corrects is None:
            self.calls += 1
        if record.cost_usd is None:
            self.unpriced += 1
        else:
            self.cost_usd = plus(self.cost_usd, record.cost_usd)
        if record.settles:
            self.unpriced -= 1
        for name in TOKEN_COUNTS:
            setattr(self, name, getattr(self, name) + getattr(record, name))

    def merge(self, other: CostTotal) -> None:
        """Add another total."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cost_usd = plus(self.cost_usd, other.cost_usd)

    def __neg__(self) -> CostTotal:
        return CostTotal(**{name: -getattr(self, name) for name in _COUNTS}, cost_usd=minus(self.cost_usd))


_COUNTS = tuple(field.name for field in fields(CostTotal) if field.name != "cost_usd")


def sum_records(records: Iterable[CostRecord], days: Mapping[datetime, str]) -> dict[TotalKey, CostTotal]:
    """Return every total of these records; *days*: the day of each moment."""
    finest: dict[tuple[str, str, str, str, str, str], CostTotal] = {}
    for record in records:
        place = (
            days[record.occurred_at],
            record.project_id or "",
            record.session_id or "",
            record.agent_id or "",
            record.model,
            record.run_id or "",
        )
        total = finest.get(place)
        if total is None:
            finest[place] = total = CostTotal()
        total.add(record)
    totals: dict[TotalKey, CostTotal] = {}
    for (day, project, session, agent, model, run), total in finest.items():
        for dimension, key in zip(DIMENSIONS, ("", session, agent, model, run), strict=True):
            for grain, starts in ((DAY, day), (MONTH, month_of(day))):
                totals.setdefault(TotalKey(dimension, grain, starts, key, project), CostTotal()).merge(total)
    return totals
