"""Records of the predicted duration and cost of a plan, and the form that is stored with a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Generic, TypeVar

_Value = TypeVar("_Value", timedelta, Decimal, int)

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class PredictedTask:
    """One task of the critical path: its duration with all attempts, and its wait for a slot or limit before."""

    key: str
    took: timedelta
    waited: timedelta


@dataclass(frozen=True, slots=True)
class Percentiles(Generic[_Value]):
    """Percentiles of durations, dollars or counts."""

    p10: _Value
    p50: _Value
    p90: _Value

    def to_json(self, write: Callable[[_Value], Any]) -> list[Any]:
        """Return the list of the percentiles, each as *write* returns it."""
        return [write(value) for value in (self.p10, self.p50, self.p90)]


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
    duration: Percentiles[timedelta]
    usd: Percentiles[Decimal]
    tokens: Percentiles[int]
    unpriced: Percentiles[int]
    path: tuple[PredictedTask, ...]
    kinds: tuple[JobTypePrediction, ...]
    untimed: tuple[str, ...]
    uncosted: tuple[str, ...]
    failing: float
    budget: Decimal | None = None
    within_budget: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with a run: all percentiles, and the unknown kinds."""
        return {
            "duration": self.duration.to_json(timedelta.total_seconds),
            "usd": self.usd.to_json("{:f}".format),
            "tokens": self.tokens.to_json(int),
            "unpriced": self.unpriced.to_json(int),
            "slots": self.slots,
            "rounds": self.rounds,
            "untimed": list(self.untimed[:_MOST_NAMED]),
            "uncosted": list(self.uncosted[:_MOST_NAMED]),
        }
