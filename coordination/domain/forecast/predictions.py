"""What a plan is expected to take and to cost, as it is shown, and as it is kept with a run. Pure records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class PredictedStep:
    """One task of the critical path: how long it took with all its attempts, and waited for a place before."""

    key: str
    took: timedelta
    waited: timedelta


@dataclass(frozen=True, slots=True)
class Durations:
    """In one of ten rounds it took no longer than ``p10``, in five than ``p50``, in nine than ``p90``."""

    p10: timedelta
    p50: timedelta
    p90: timedelta


@dataclass(frozen=True, slots=True)
class CostRange:
    """As Durations, in dollars."""

    p10: Decimal
    p50: Decimal
    p90: Decimal


@dataclass(frozen=True, slots=True)
class PredictedCounts:
    """As Durations, in numbers."""

    p10: int
    p50: int
    p90: int


@dataclass(frozen=True, slots=True)
class JobTypePrediction:
    """One kind of job in the plan: how many tasks have it, and what an attempt takes and costs in the middle."""

    kind: str
    tasks: int
    measured: int
    source: str
    took: timedelta | None
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan will take and cost.

    ``unpriced``: model calls whose price is unknown; they are in no sum of dollars. ``untimed`` and ``uncosted``: kinds
    of jobs of which it is not known how long they take, or what they cost: counted as nothing, so the rest is the least
    that it will be. ``failing``: the share of rounds in which a task failed with its last attempt; what needs it went
    on all the same. ``within_budget``: the share of rounds in which the plan's own budget held, None without one.
    ``path``: the critical path of the round in the middle.
    """

    tasks: int
    slots: int
    rounds: int
    duration: Durations
    usd: CostRange
    tokens: PredictedCounts
    unpriced: PredictedCounts
    path: tuple[PredictedStep, ...]
    kinds: tuple[JobTypePrediction, ...]
    untimed: tuple[str, ...]
    uncosted: tuple[str, ...]
    failing: float
    budget: Decimal | None = None
    within_budget: float | None = None

    def to_json(self) -> dict[str, Any]:
        """What is kept with a run: the three numbers of everything, and what is not known."""
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
