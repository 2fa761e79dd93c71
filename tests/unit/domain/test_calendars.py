"""Test days and months of a time zone: a moment's day on both sides of midnight, and when a day begins."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from coordination.base.clock import check_zone, day_of, day_start, month_of
from coordination.base.errors import Refused


@pytest.mark.parametrize(
    ("moment", "zone", "day"),
    [
        (datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC), "UTC", "2027-01-31"),
        (datetime(2027, 2, 1, tzinfo=UTC), "UTC", "2027-02-01"),
        (datetime(2027, 1, 31, 22, 59, 59, tzinfo=UTC), "Europe/Berlin", "2027-01-31"),
        (datetime(2027, 1, 31, 23, 0, tzinfo=UTC), "Europe/Berlin", "2027-02-01"),
        (datetime(2027, 2, 1, 4, 59, tzinfo=UTC), "America/New_York", "2027-01-31"),
        (datetime(2027, 2, 1, 5, 0, tzinfo=UTC), "America/New_York", "2027-02-01"),
        (datetime(2027, 1, 31, 18, 14, tzinfo=UTC), "Asia/Kathmandu", "2027-01-31"),
        (datetime(2027, 1, 31, 18, 15, tzinfo=UTC), "Asia/Kathmandu", "2027-02-01"),
        # Here clocks went back at one minute past midnight, at 02:31 in UTC: to 23:01 of the day before.
        (datetime(2010, 11, 7, 2, 29, tzinfo=UTC), "America/St_Johns", "2010-11-06"),
        (datetime(2010, 11, 7, 2, 30, tzinfo=UTC), "America/St_Johns", "2010-11-07"),
        (datetime(2010, 11, 7, 2, 45, tzinfo=UTC), "America/St_Johns", "2010-11-06"),
        (datetime(2027, 1, 31, 23, 30, tzinfo=timezone(timedelta(hours=-3))), "UTC", "2027-02-01"),
    ],
)
def test_a_moment_belongs_to_the_day_of_the_zone(moment: datetime, zone: str, day: str) -> None:
    assert day_of(moment, zone) == day


@pytest.mark.parametrize(
    ("day", "zone", "moment"),
    [
        (date(2027, 1, 31), "UTC", datetime(2027, 1, 31, tzinfo=UTC)),
        (date(2027, 1, 31), "Europe/Berlin", datetime(2027, 1, 30, 23, tzinfo=UTC)),
        (date(2027, 7, 31), "Europe/Berlin", datetime(2027, 7, 30, 22, tzinfo=UTC)),
        (date(2027, 3, 28), "Europe/Berlin", datetime(2027, 3, 27, 23, tzinfo=UTC)),
        (date(2027, 3, 29), "Europe/Berlin", datetime(2027, 3, 28, 22, tzinfo=UTC)),
    ],
)
def test_a_day_begins_at_midnight_of_the_zone_in_summer_and_in_winter(day: date, zone: str, moment: datetime) -> None:
    assert day_start(day, zone) == moment


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati"])
def test_every_hour_of_a_year_belongs_to_the_day_that_has_begun(zone: str) -> None:
    first = datetime(2027, 1, 1, tzinfo=UTC)

    for hour in range(0, 366 * 24, 7):
        moment = first + timedelta(hours=hour)
        day = date.fromisoformat(day_of(moment, zone))

        assert day_start(day, zone) <= moment < day_start(day + timedelta(days=1), zone)


def test_a_day_belongs_to_its_month() -> None:
    assert [month_of(day) for day in ("2027-01-31", "2027-02-01", "2028-02-29")] == [
        "2027-01-01",
        "2027-02-01",
        "2028-02-01",
    ]


@pytest.mark.parametrize(("name", "meant"), [("europe/berlin", "Europe/Berlin"), ("New York", "America/New_York")])
def test_a_zone_that_is_nearly_right_is_refused_with_the_right_name(name: str, meant: str) -> None:
    with pytest.raises(Refused) as refused:
        check_zone(name)

    assert refused.value.hint == f"Did you mean {meant}?"


def test_a_zone_is_checked_as_it_is_written() -> None:
    assert check_zone("Europe/Berlin") == "Europe/Berlin"
