"""Test durations: what people write is read exactly, and what is written reads back."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.durations import MAX_DURATION, parse_duration, show_duration, write_duration
from coordination.base.errors import Refused
from tests.support.refusals import refuses


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30m", 1800),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("90s", 90),
        ("250ms", 0.25),
        ("2d", 172_800),
        ("1w", 604_800),
        ("1.5h", 5400),
        ("90", 90),
        (90, 90),
        (0.25, 0.25),
        ("0s", 0),
    ],
)
def test_a_written_duration_is_read(written, seconds):
    assert parse_duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "m",
        "1m1h",
        "5m5m",
        "-5s",
        "1e3s",
        "soon",
        "9999d",
        "\u0661m",
        True,
        None,
        -1,
        float("nan"),
        float("inf"),
        1e300,
    ],
)
def test_what_is_no_duration_is_refused_and_says_how_to_write_one(written):
    with refuses(Refused):
        parse_duration(written)


def test_a_long_text_is_not_repeated_in_its_refusal():
    with pytest.raises(Refused) as refused:
        parse_duration("1" * 100_000)

    assert len(refused.value.sentence()) < 300


@given(st.timedeltas(min_value=timedelta(0), max_value=MAX_DURATION))
def test_every_duration_reads_back_as_it_was_written(duration):
    assert parse_duration(write_duration(duration)) == duration


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.9999, "1.0s"),
        (3.21, "3.2s"),
        (59.6, "1m"),
        (65, "1m05s"),
        (5400, "1h30m"),
        (3599.7, "1h"),
        (90_000, "1d1h"),
        (-65, "-1m05s"),
    ],
)
def test_people_see_two_units_at_most(seconds, shown):
    assert show_duration(timedelta(seconds=seconds)) == shown
