"""Burn rate and forecast of the month, from the costs of days.

The forecast is the spent amount plus, for each remaining day, the average cost of a day in the last four weeks, or of
that day of the week with three whole weeks of history. The interval contains the month's end in four of five cases if
days continue to differ only by chance: a Student interval for a sum of future days, whose mean is estimated from few
days. There is no forecast from fewer than three whole days.
"""

from __future__ import annotations

import math
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import reduce

from coordination.base.money import plus

WINDOW = 28
"""The maximum number of whole days from which the forecast is computed."""

MIN_DAYS = 3
BURN_DAYS = 7
CONFIDENCE = 80
_WEEKDAYS_FROM = 21
_WEEK = 7
_PLACES = 6

# The 90 % quantile of Student's distribution, by degrees of freedom.
_STUDENT = {
    2: 1.886, 3: 1.638, 4: 1.533, 5: 1.476, 6: 1.440, 7: 1.415, 8: 1.397, 9: 1.383,
    10: 1.372, 12: 1.356, 15: 1.341, 20: 1.325, 30: 1.310,
}  # fmt: skip


class ForecastMethod(StrEnum):
    """How the cost of a future day is estimated."""

    MEAN = "mean"  # the average day of the window
    WEEKDAYS = "weekdays"  # the average of the same day of the week


@dataclass(frozen=True, slots=True)
class Forecast:
    """The cost of the whole month, and its interval with CONFIDENCE percent."""

    usd: Decimal
    low: Decimal
    high: Decimal
    method: ForecastMethod
    days: int  # of history


@dataclass(frozen=True, slots=True)
class BurnRate:
    """Dollars per day and per hour, over the last days."""

    per_day: Decimal
    per_hour: Decimal
    hours: float  # of history


def forecast(daily: Sequence[Decimal], *, today: date, spent: Decimal, left: float) -> Forecast | None:
    """Return the forecast for the month of *today*; None with too little history.

    *daily*: the cost of each whole day before today, oldest first. *spent*: this month until now. *left*: the remaining
    share of today, from 0 to 1.
    """
    history = [float(day) for day in daily[-WINDOW:]]
    if len(history) < MIN_DAYS:
        return None
    method = ForecastMethod.WEEKDAYS if len(history) >= _WEEKDAYS_FROM else ForecastMethod.MEAN
    expected, freedom = _expected_costs(history, today, method)
    shares = [(today.weekday(), min(max(left, 0.0), 1.0))]
    last = monthrange(today.year, today.month)[1]
    shares += [((today.weekday() + ahead) % _WEEK, 1.0) for ahead in range(1, last - today.day + 1)]
    weight = sum(share for _, share in shares)
    rest = sum(expected[weekday] * share for weekday, share in shares)
    spread = _deviation(history, expected, today, freedom)
    half = _quantile(freedom) * spread * math.sqrt(weight + weight * weight / len(history))
    return Forecast(
        usd=plus(spent, _dollars(rest)),
        low=plus(spent, _dollars(rest - half)),
        high=plus(spent, _dollars(max(rest, 0.0) + half)),
        method=method,
        days=len(history),
    )


def burn_rate(daily: Sequence[Decimal], *, spent_today: Decimal, hours_today: float) -> BurnRate:
    """Return the burn rate over the last whole days and today until now, at least over one hour."""
    days = daily[-BURN_DAYS:]
    hours = max(1.0, 24.0 * len(days) + max(0.0, hours_today))
    an_hour = max(0.0, float(reduce(plus, days, spent_today))) / hours
    return BurnRate(_dollars(an_hour * 24), _dollars(an_hour), hours)


def _expected_costs(history: Sequence[float], today: date, method: ForecastMethod) -> tuple[list[float], int]:
    """Return the expected cost of each weekday, and the remaining degrees of freedom."""
    mean = sum(history) / len(history)
    if method is ForecastMethod.MEAN:
        return [mean] * _WEEK, len(history) - 1
    by_weekday: list[list[float]] = [[] for _ in range(_WEEK)]
    for weekday, day in zip(_weekdays(len(history), today), history, strict=True):
        by_weekday[weekday].append(day)
    # Three or four days are a small sample of a weekday: shrink each towards the mean of all.
    return [(sum(days) + mean) / (len(days) + 1) for days in by_weekday], len(history) - _WEEK


def _deviation(history: Sequence[float], expected: Sequence[float], today: date, freedom: int) -> float:
    """Return the deviation of days from their expected cost, above zero because the expectation is uncertain."""
    weekdays = _weekdays(len(history), today)
    squares = sum((day - expected[weekday]) ** 2 for weekday, day in zip(weekdays, history, strict=True))
    least = abs(sum(history)) / len(history) / math.sqrt(len(history)) / 2
    return max(math.sqrt(squares / freedom), least)


def _weekdays(number: int, today: date) -> list[int]:
    """Return the weekdays of that many days before today, oldest first."""
    return [(today - timedelta(days=ago)).weekday() for ago in range(number, 0, -1)]


def _quantile(freedom: int) -> float:
    """Return the quantile of the largest tabulated degree up to *freedom*, which is a little wider."""
    return _STUDENT[max(known for known in _STUDENT if known <= freedom)]


def _dollars(amount: float) -> Decimal:
    """Return the amount as money, at least zero."""
    return Decimal(repr(round(max(amount, 0.0), _PLACES)))
