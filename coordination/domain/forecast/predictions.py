"""Records of the predicted duration and cost of a plan, and the form that is stored with a run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class PredictedTask:
    """One task of the critical path: its duration with all attempts, and its wait for a slot or limit before."""

    key: str
    took: timedelta
    waited: timedelta


@dataclass(frozen=True, slots=True)
class Durations:
    """Percentiles of durations."""

    p10: timedelta
    p50: timedelta
    p90: timedelta


@dataclass(frozen=True, slots=True)
class CostRange:
    """Percentiles of dollars."""

    p10: Decimal
    p50: Decimal
    p90: Decimal


@dataclass(frozen=True, slots=True)
class PredictedCounts:
    """Percentiles of counts."""

    p10: int
    p50: int
    p90: int


@dataclass(frozen=True, slots=True)
class JobTypePrediction:
    """One kind of job in the plan: its number of tasks, and the median duration and cost of an attempt."""

    kind: str
    tasks: int
    measured: int
    source: str
    took: timedelta | None
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted duration and cost of a plan.

    ``unpriced``: model calls without a known price, which are not in sums of dollars. ``untimed`` and ``uncosted``:
    kinds of jobs without a known duration or cost; they count as zero, so that the prediction is a lower bound.
    ``failing``: the share of rounds in which a task failed with its last attempt; its downstream tasks ran all the
    same. ``within_budget``: the share of rounds within the plan's own budget, None without one. ``path``: the critical
    path of the median round.
    """

    tasks: int
    slots: int
    rounds: int
    duration: Durations
    usd: CostRange
    tokens: PredictedCounts
    unpriced: PredictedCounts
    path: tuple[PredictedTask, ...]
    kinds: tuple[JobTypePrediction, ...]
    untimed: tuple[str, ...]
    uncosted: tuple[str, ...]
    failing: float
    budget: Decimal | None = None
    within_budget: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with a run: all percentiles, and the unknown kinds."""
        duration, usd, tokens, unpriced = self.duration, self.usd, self.tokens, self.unpriced
        return {
            "duration": [each.total_seconds() for each in (duration.p10, duration.p50, duration.p90)],
            "usd": [f"{each:f}" for each in (usd.p10, usd.p50, usd.p90)],
            "tokens": [tokens.p10, tokens.p50, tokens.p90],
            "unpriced": [unpriced.p10, unpriced.p50, unpriced.p90],
            "slots": self.slots,
            "rounds": self.rounds,
            "untimed": list(self.untimed[:_MOST_NAMED]),
            "uncosted": list(self.uncosted[:_MOST_NAMED]),
        }
