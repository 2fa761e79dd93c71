"""What cost records add up to: calls, tokens and dollars by day and month, and by what they were for. Pure.

A correction adds its dollars, is no call, and takes back that a price was unknown where it settled one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from coordination.base.calendars import month_of
from coordination.base.money import ZERO, minus, plus
from coordination.domain.money.costs import CostRecord

DIMENSIONS = ("project", "session", "agent", "model", "run")
DAY, MONTH = "day", "month"


class TotalKey(NamedTuple):
    """Which sum: of what (a dimension's key in a project; the empty text: none), over which day or month."""

    dimension: str
    grain: str
    starts: str
    key: str
    project_id: str


@dataclass(slots=True)
class CostTotal:
    """What some records come to. ``cost_usd`` is of calls with a known price, ``unpriced`` counts the others."""

    calls: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    total_tokens: int = 0
    cost_usd: Decimal = ZERO

    def add(self, record: CostRecord) -> None:
        """One record more."""
        if record.corrects is None:
            self.calls += 1
        if record.cost_usd is None:
            self.unpriced += 1
        else:
            self.cost_usd = plus(self.cost_usd, record.cost_usd)
        if record.settles:
            self.unpriced -= 1
        self.input_tokens += record.input_tokens
        self.output_tokens += record.output_tokens
        self.cached_input_tokens += record.cached_input_tokens
        self.total_tokens += record.total_tokens

    def join(self, other: CostTotal) -> None:
        """What *other* comes to besides."""
        self.calls += other.calls
        self.unpriced += other.unpriced
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.total_tokens += other.total_tokens
        self.cost_usd = plus(self.cost_usd, other.cost_usd)

    def taken_back(self) -> CostTotal:
        """What makes nothing of it when it is added."""
        return CostTotal(
            -self.calls,
            -self.unpriced,
            -self.input_tokens,
            -self.output_tokens,
            -self.cached_input_tokens,
            -self.total_tokens,
            minus(self.cost_usd),
        )


def added_up(records: Iterable[CostRecord], days: Mapping[datetime, str]) -> dict[TotalKey, CostTotal]:
    """Every sum that these records belong to; *days* names the day of each of their moments."""
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
        found = finest.get(place)
        if found is None:
            finest[place] = found = CostTotal()
        found.add(record)
    cells: dict[TotalKey, CostTotal] = {}
    for (day, project, session, agent, model, run), found in finest.items():
        keys = zip(DIMENSIONS, ("", session, agent, model, run), strict=True)
        for dimension, key in keys:
            for grain, starts in ((DAY, day), (MONTH, month_of(day))):
                cells.setdefault(TotalKey(dimension, grain, starts, key, project), CostTotal()).join(found)
    return cells
