"""Test months, days and moments as people name them, and the sums of which they consist."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.clock import day_of, day_start
from coordination.base.errors import Refused
from coordination.domain.money.date_ranges import DateRange, parse_date_range
from tests.support.refusals import refuses

DATES = st.dates(date(2020, 1, 1), date(2030, 12, 31))


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        (None, None, DateRange()),
        ("2027-01", "2027-02", DateRange(first=date(2027, 1, 1), last=date(2027, 2, 28))),
        ("2027-01-31", "2027-01-31", DateRange(first=date(2027, 1, 31), last=date(2027, 1, 31))),
        (date(2027, 1, 31), None, DateRange(first=date(2027, 1, 31))),
        (
            "2027-01-31T12:00:00Z",
            "2028-02",
            DateRange(since=datetime(2027, 1, 31, 12, tzinfo=UTC), last=date(2028, 2, 29)),
        ),
        (None, "2027-01-31T12:00:00+02:00", DateRange(until=datetime(2027, 1, 31, 10, tzinfo=UTC))),
        ("0001-01", "9999-12-31", DateRange(first=date.min, last=date.max)),
    ],
)
def test_what_people_write(since, until, found):
    assert parse_date_range(since, until) == found


@pytest.mark.parametrize(
    "bad", ["", "soon", "2027-13", "2027-02-30", "2027-1", "27-01-01", "2027-01-01T25:00", "\u0662027-01"]
)
def test_what_is_no_time_is_refused(bad):
    with refuses(Refused):
        parse_date_range(bad)
    with refuses(Refused):
        parse_date_range(None, bad)


def test_an_end_before_its_beginning_is_refused():
    for since, until in (("2027-02", "2027-01"), ("2027-01-03T00:00:00Z", "2027-01-01"), ("2027-01-02", "2027-01-01")):
        with refuses(Refused):
            parse_date_range(since, until)


@given(DATES, DATES)
def test_the_parts_of_a_span_are_its_days_each_once(one, other):
    first, last = sorted((one, other))
    days: list[date] = []
    for grain, begin, end in DateRange(first, last).parts():
        assert begin is not None
        assert end is not None
        if grain == "month":
            assert begin.day == 1
            assert (end + timedelta(days=1)).day == 1
        days += [begin + timedelta(days=number) for number in range((end - begin).days + 1)]

    assert sorted(days) == [first + timedelta(days=number) for number in range((last - first).days + 1)]


@pytest.mark.parametrize(
    "open_span",
    [DateRange(), DateRange(first=date(2027, 1, 15)), DateRange(last=date(2027, 1, 15)), DateRange(date.min, date.max)],
)
def test_an_open_span_is_mostly_months(open_span):
    grains = [grain for grain, _, _ in open_span.parts()]

    assert grains[0] == "month"
    assert len(grains) <= 2


@given(
    st.integers(31_536_000, 3_786_912_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]
    ),
)
def test_a_day_begins_where_the_one_before_ends(moment, zone):
    day = date.fromisoformat(day_of(moment, zone))

    assert day_start(day, zone) <= moment < day_start(day + timedelta(days=1), zone)
