"""How fast money goes, and where the month will end at that pace: daily spending in, dollars out. Pure.

The forecast is what was spent, and for each day that is left what a day cost on average over the last four weeks; with
three whole weeks of history, what that day of the week cost. The interval is the one in which the month's end would lie
four times of five if days differed by chance alone, as they did so far: a Student interval for a sum of days to come,
the pace itself being known from few days. Nothing is foretold from fewer than three whole days.
"""

from __future__ import annotations

import math
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum

from coordination.base.money import ZERO, plus

WINDOW = 28
"""Of how many whole days the pace is taken, at most."""

LEAST = 3
BURN_DAYS = 7
CONFIDENCE = 80
_WEEKDAYS_FROM = 21
_WEEK = 7
_PLACES = 6

# The quantile of Student's distribution that four of five values do not exceed on either side, by degrees of freedom.
_STUDENT = {
    2: 1.886,
    3: 1.638,
    4: 1.533,
    5: 1.476,
    6: 1.440,
    7: 1.415,
    8: 1.397,
    9: 1.383,
    10: 1.372,
    12: 1.356,
    15: 1.341,
    20: 1.325,
    30: 1.310,
}


class ForecastMethod(StrEnum):
    """What a day to come is taken to cost."""

    MEAN = "mean"  # as the days of the window
    WEEKDAYS = "weekdays"  # as the same days of the week


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where the month ends, and between what with CONFIDENCE per cent."""

    usd: Decimal
    low: Decimal
    high: Decimal
    method: ForecastMethod
    days: int  # of history


@dataclass(frozen=True, slots=True)
class BurnRate:
    """Dollars a day and an hour, over the last days."""

    per_day: Decimal
    per_hour: Decimal
    hours: float  # of history


def forecast(daily: Sequence[Decimal], *, today: date, spent: Decimal, left: float) -> Forecast | None:
    """Where today's month ends; None where there is too little history.

    *daily*: what each of the whole days before today cost, the oldest first. *spent*: this month until now. *left*: how
    much of today is still to come, from 0 to 1.
    """
    history = [float(day) for day in daily[-WINDOW:]]
    if len(history) < LEAST:
        return None
    method = ForecastMethod.WEEKDAYS if len(history) >= _WEEKDAYS_FROM else ForecastMethod.MEAN
    expected, freedom = _paces(history, today, method)
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


def burn(daily: Sequence[Decimal], *, spent_today: Decimal, hours_today: float) -> BurnRate:
    """The pace over the last whole days and today until now; over an hour at least."""
    days = daily[-BURN_DAYS:]
    hours = max(1.0, 24.0 * len(days) + max(0.0, hours_today))
    total = ZERO
    for day in (*days, spent_today):
        total = plus(total, day)
    an_hour = max(0.0, float(total)) / hours
    return BurnRate(_dollars(an_hour * 24), _dollars(an_hour), hours)


def _paces(history: Sequence[float], today: date, method: ForecastMethod) -> tuple[list[float], int]:
    """What a day of each weekday is expected to cost, and how many degrees of freedom that leaves."""
    mean = sum(history) / len(history)
    if method is ForecastMethod.MEAN:
        return [mean] * _WEEK, len(history) - 1
    by_weekday: list[list[float]] = [[] for _ in range(_WEEK)]
    for weekday, day in zip(_weekdays(len(history), today), history, strict=True):
        by_weekday[weekday].append(day)
    # Three or four days tell little about a weekday: each is drawn towards the mean of all.
    return [(sum(days) + mean) / (len(days) + 1) for days in by_weekday], len(history) - _WEEK


def _deviation(history: Sequence[float], expected: Sequence[float], today: date, freedom: int) -> float:
    """By how much days differ from what is expected of them; never nothing, for a pace is never known for certain."""
    weekdays = _weekdays(len(history), today)
    squares = sum((day - expected[weekday]) ** 2 for weekday, day in zip(weekdays, history, strict=True))
    least = abs(sum(history)) / len(history) / math.sqrt(len(history)) / 2
    return max(math.sqrt(squares / freedom), least)


def _weekdays(number: int, today: date) -> list[int]:
    """Of the so many days before today, the oldest first."""
    return [(today - timedelta(days=ago)).weekday() for ago in range(number, 0, -1)]


def _quantile(freedom: int) -> float:
    """For a degree that is not in the table, that of the next lower one: a little wider."""
    return _STUDENT[max(known for known in _STUDENT if known <= freedom)]


def _dollars(amount: float) -> Decimal:
    """As money, nothing where it is below."""
    return Decimal(repr(round(max(amount, 0.0), _PLACES)))
