"""Test money: exact from a person's or a file's text, refused when it is none."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordination.base.errors import Refused
from coordination.base.money import minus, plus, show_usd, usd
from tests.support.refusals import refuses


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1.25", "1.25"),
        (0.1, "0.1"),
        (3, "3"),
        ("1e3", "1000"),
        ("-0.5", "-0.5"),
        (Decimal("0.000000000000000000000000000001"), "0.000000000000000000000000000001"),
        ("1000000000000", "1000000000000"),
    ],
)
def test_an_amount_is_read_exactly(said, meant: str) -> None:
    assert usd(said) == Decimal(meant)


@pytest.mark.parametrize(
    "said",
    [
        "one",
        "",
        "$1",
        None,
        True,
        [],
        "nan",
        float("inf"),
        "-Infinity",
        "1000000000000.01",
        "-1000000000001",
        "1e1000000",
        "1e-31",
        "0.0000000000000000000000000000001",
    ],
)
def test_what_is_no_amount_is_refused(said) -> None:
    with refuses(Refused):
        usd(said)


@settings(deadline=None)
@given(st.decimals(min_value=-(10**12), max_value=10**12, places=30))
def test_every_amount_in_range_keeps_every_digit(amount: Decimal) -> None:
    assert usd(str(amount)).compare_total(Decimal(str(amount))) == 0


@settings(deadline=None)
@given(st.floats(min_value=-1e12, max_value=1e12).filter(lambda value: value == 0 or abs(value) > 1e-10))
def test_a_float_is_read_by_its_shortest_form(value: float) -> None:
    assert usd(value) == Decimal(repr(value))


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "$0.00"), ("0E-20", "$0.00"), ("1234.567", "$1,234.57"), ("0.01", "$0.01"), ("0.00042", "$0.00042")],
)
def test_people_see_cents_or_what_a_small_amount_needs(amount: str, shown: str) -> None:
    assert show_usd(Decimal(amount)) == shown


def test_a_refusal_shows_the_amount_as_people_write_it_and_no_page_of_digits() -> None:
    with refuses(Refused):
        usd(Decimal("1E+309"))
    with refuses(Refused) as long:
        usd(Decimal("0." + "1" * 5000))

    assert len(long.value.message) < 120


def test_a_sum_keeps_every_digit_of_a_large_and_a_small_amount() -> None:
    large, small = Decimal(999999999999), Decimal("0.000000000000000000000000000001")

    assert plus(large, small) == Decimal("999999999999.000000000000000000000000000001")
    assert plus(plus(large, small), minus(large)) == small
