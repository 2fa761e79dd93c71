"""Test when a limit is lifted, with texts that programs and providers printed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from coordination.domain.jobs.reset_times import from_epoch, parse_reset

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")  # an hour ahead in winter

SAID = [
    # seconds and milliseconds since 1970
    ("Claude AI usage limit reached|1796054400", "2026-11-30T16:00"),
    ('"resets_at":1796054400', "2026-11-30T16:00"),
    ('{"resetsAt": 1796054400000}', "2026-11-30T16:00"),
    # lengths
    ("You've hit your usage limit. Upgrade to Pro or try again in 2 hours 3 minutes.", "2026-11-30T14:03"),
    ("try again in 5 days 3 hours.", "2026-12-05T15:00"),
    ("try again in 3 hours and 12 minutes", "2026-11-30T15:12"),
    ("try again in 5d 3h", "2026-12-05T15:00"),
    ("Your quota will reset after 3h22m10s.", "2026-11-30T15:22:10"),
    ("Resets in 4 hr 12 min", "2026-11-30T16:12"),
    ("Please try again in 6m0s.", "2026-11-30T12:06"),
    ("Please try again in 1.2s.", "2026-11-30T12:00:01.200000"),
    ("please try again in 20ms", "2026-11-30T12:00:00.020000"),
    ("try again in an hour", "2026-11-30T13:00"),
    ("Please wait 30 seconds", "2026-11-30T12:00:30"),
    ('"retryDelay":"34s"', "2026-11-30T12:00:34"),
    ("Retry-After: 30", "2026-11-30T12:00:30"),
    ("Rate limit exceeded, retry after 17", "2026-11-30T12:00:17"),
    ('"resets_in_seconds":3600', "2026-11-30T13:00"),
    ("retry-after-ms: 5000", "2026-11-30T12:00:05"),
    ("retry-after: Mon, 30 Nov 2026 12:05:00 GMT", "2026-11-30T12:05"),
    # dates
    ("You will regain access on 2026-12-01 at 00:00 UTC.", "2026-12-01T00:00"),
    ("usage limit reset at 2026-12-01T05:00:00+02:00", "2026-12-01T03:00"),
    ("try again at Dec 1st, 2026 8:15 PM.", "2026-12-01T19:15"),
    ("Access will be back on Dec 4, 2026", "2026-12-03T23:00"),
    ("weekly limit · resets Dec 3, 3pm (Europe/Berlin)", "2026-12-03T14:00"),
    ("resets Dec 3 at 9:30am (America/New_York)", "2026-12-03T14:30"),
    ("resets Jan 1 (UTC)", "2027-01-01T00:00"),
    ("resets on 4 December at 15:00 UTC", "2026-12-04T15:00"),
    ("resets 4 Dec 2026", "2026-12-03T23:00"),
    ("try again at 3:05 PM on Dec 4", "2026-12-04T14:05"),
    # times of the day
    ("You've hit your session limit · resets 3pm (Europe/Berlin)", "2026-11-30T14:00"),
    ("You've hit your limit · resets 12:55pm (Europe/Berlin)", "2026-11-30T11:55"),  # a moment ago
    ("resets 12am (UTC)", "2026-12-01T00:00"),
    ("Your limit will reset at 15:00 (UTC)", "2026-11-30T15:00"),
    ("try again at 8:15 PM.", "2026-11-30T19:15"),
    ("available again at 6pm PST", "2026-12-01T02:00"),
    ("Your limit will reset at 1pm (Etc/GMT+5).", "2026-11-30T18:00"),  # which lies west of Greenwich
    ("resets 3pm America/New_York", "2026-11-30T20:00"),
    ("resets at midnight PT", "2026-12-01T08:00"),
    ("resets at 15:00 may be earlier", "2026-11-30T14:00"),
    ("resets tomorrow at 3am", "2026-12-01T02:00"),
    ("resets Mon 9am", "2026-12-07T08:00"),
    ("resets 3pm (Middle/Earth)", "2026-11-30T14:00"),  # an unknown zone counts as this machine's
]


@pytest.mark.parametrize(("words", "moment"), SAID)
def test_the_moment_that_words_name(words: str, moment: str) -> None:
    assert parse_reset(words, now=NOW, local=BERLIN) == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "words",
    [
        "Try again later",
        "try again in 90 days",  # no limit is that long
        "it failed 3 times, at 25:99",
        "Used 29000 of 30000, resets Feb 31, 3pm",
        "The year is 9999-99-99",
        "resets_at: 99999999999999999999",
        "",
    ],
)
def test_words_that_name_no_moment(words: str) -> None:
    assert parse_reset(words, now=NOW, local=BERLIN) is None


def test_winter_and_summer_are_those_of_the_zone() -> None:
    summer = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)

    assert parse_reset("resets 3pm (Europe/Berlin)", now=summer) == datetime(2026, 7, 1, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize("value", [None, True, "soon", float("nan"), 10**40, [], -(10**20)])
def test_what_is_no_moment_is_none(value: object) -> None:
    assert from_epoch(value) is None
