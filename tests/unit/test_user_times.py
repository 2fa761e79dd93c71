"""Test that today, monday and 7d are in the user's time zone; other texts stay for the ledger to parse."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from coordination.api.user_times import resolve_time

NOW = datetime(2026, 12, 2, 23, 30, tzinfo=UTC)  # a Wednesday; in Tokyo it is Thursday


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize(
    ("word", "day"),
    [
        ("today", date(2026, 12, 3)),
        (" Yesterday ", date(2026, 12, 2)),
        ("thursday", date(2026, 12, 3)),
        ("monday", date(2026, 11, 30)),
        ("FRIDAY", date(2026, 11, 27)),
    ],
)
def test_words_are_days_of_the_one_who_asks(word: str, day: date) -> None:
    begins = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=9)

    assert resolve_time(word, zone="Asia/Tokyo", now=NOW) == day
    assert resolve_time(word, zone="UTC", now=NOW) == begins
    assert resolve_time(word, zone="UTC", end=True, now=NOW) == begins + timedelta(days=1)
    assert resolve_time(word, zone="Asia/Tokyo", end=True, now=NOW) == day


@pytest.mark.parametrize(
    ("word", "before"), [("7d", timedelta(days=7)), ("12h", timedelta(hours=12)), ("2W", timedelta(weeks=2))]
)
def test_so_long_ago_is_a_moment(word: str, before: timedelta) -> None:
    assert resolve_time(word, zone="UTC", now=NOW) == NOW - before


@pytest.mark.parametrize("other", [None, "2027-01", "2027-01-31T12:00:00Z", "soon", "99999d", "d", "-1d", NOW])
def test_what_is_no_word_stays_as_it_is(other: object) -> None:
    assert resolve_time(other, zone="UTC", now=NOW) is other  # type: ignore[arg-type]
