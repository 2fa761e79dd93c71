"""Test forecasts: never below the present sum, never out of range, and right about as often as they claim."""

from __future__ import annotations

import random
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.domain.forecast.forecasts import WINDOW, ForecastMethod, burn_rate, forecast

AMOUNTS = st.decimals(min_value=0, max_value=10**12, places=12)
ANY = st.decimals(min_value=-(10**12), max_value=10**12, places=30)
TODAY = date(2027, 1, 11)


@given(st.lists(ANY, max_size=60), st.dates(date(1990, 1, 1), date(2100, 1, 1)), ANY, st.floats(allow_nan=False))
def test_whatever_was_spent_the_forecast_makes_sense(daily, today, spent, left):
    outlook = forecast(daily, today=today, spent=spent, left=left)

    if len(daily) < 3:
        assert outlook is None
        return
    assert outlook is not None
    assert all(value.is_finite() for value in (outlook.usd, outlook.low, outlook.high))
    assert spent <= outlook.low <= outlook.usd <= outlook.high


@given(st.lists(ANY, max_size=60), ANY, st.floats(min_value=0, max_value=25))
def test_a_pace_is_never_negative_nor_nonsense(daily, spent_today, hours):
    rate = burn_rate(daily, spent_today=spent_today, hours_today=hours)

    assert rate.per_day.is_finite()
    assert 0 <= rate.per_hour <= rate.per_day


@given(st.lists(AMOUNTS, min_size=3, max_size=28))
def test_on_the_last_moment_of_the_month_it_is_what_was_spent(daily):
    outlook = forecast(daily, today=date(2027, 1, 31), spent=Decimal(5), left=0.0)

    assert outlook is not None
    assert (outlook.usd, outlook.low, outlook.high) == (5, 5, 5)


def test_an_even_pace_goes_on_and_is_never_taken_for_certain():
    outlook = forecast([Decimal(10)] * 28, today=TODAY, spent=Decimal(105), left=0.5)

    assert outlook is not None
    assert outlook.usd == Decimal("310.0")  # 105, half of today, twenty days
    assert outlook.low < outlook.usd < outlook.high


def test_the_fewer_days_the_wider():
    widths = []
    for days in (3, 5, 10, 20):
        noisy = [Decimal(9 + 2 * (number % 2)) for number in range(days)]
        outlook = forecast(noisy, today=TODAY, spent=Decimal(0), left=1.0)
        assert outlook is not None
        widths.append(outlook.high - outlook.low)

    assert widths == sorted(widths, reverse=True)


def test_days_of_the_week_count_once_there_are_three_weeks():
    days = [TODAY - timedelta(days=ago) for ago in range(28, 0, -1)]
    daily = [Decimal(0 if day.weekday() >= 5 else 100) for day in days]

    outlook_of_weekdays = forecast(
        daily, today=date(2027, 1, 29), spent=Decimal(0), left=0.0
    )  # a Friday, two days of weekend left
    friday = [
        Decimal(0 if (date(2027, 1, 29) - timedelta(days=ago)).weekday() >= 5 else 100) for ago in range(28, 0, -1)
    ]
    weekend = forecast(friday, today=date(2027, 1, 29), spent=Decimal(0), left=0.0)
    unknown = forecast(friday[-14:], today=date(2027, 1, 29), spent=Decimal(0), left=0.0)

    assert outlook_of_weekdays is not None
    assert weekend is not None
    assert unknown is not None
    assert (weekend.method, unknown.method) == (ForecastMethod.WEEKDAYS, ForecastMethod.MEAN)
    assert weekend.usd < 40
    assert unknown.usd > 120


def test_only_the_last_four_weeks_count():
    old = [Decimal(10**6)] * 100 + [Decimal(1)] * WINDOW

    assert forecast(old, today=TODAY, spent=Decimal(0), left=0.0) == forecast(
        old[-WINDOW:], today=TODAY, spent=Decimal(0), left=0.0
    )


@pytest.mark.parametrize("history", [5, 14, 28])
def test_the_interval_holds_about_as_often_as_it_says(history):
    dice = random.Random(7)  # noqa: S311 - a simulation
    hits = 0
    for _ in range(600):
        days = [Decimal(str(round(max(0.0, dice.gauss(100, 30)), 6))) for _ in range(history + 20)]
        outlook = forecast(days[:history], today=TODAY, spent=Decimal(0), left=0.0)
        assert outlook is not None
        hits += outlook.low <= sum(days[history:]) <= outlook.high

    assert 0.72 <= hits / 600 <= 0.93


def test_a_pace_is_that_of_the_last_week():
    rate = burn_rate([Decimal(1000)] * 5 + [Decimal(24)] * 7, spent_today=Decimal(12), hours_today=12.0)

    assert (rate.per_day, rate.per_hour, rate.hours) == (24, 1, 180)


def test_the_first_minutes_are_no_pace_of_an_hour():
    assert burn_rate([], spent_today=Decimal(2), hours_today=0.01).per_hour == 2
