"""Test that columns mean the same on both databases: times, money, JSON, texts; none is rounded or becomes a text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import StatementError

from coordination.base.errors import Refused
from coordination.domain.tasks.tasks import BlockReason
from coordination.store.driver import insert_rows
from coordination.store.engine import Store
from coordination.store.types import (
    MAX_JSON_BYTES,
    Json,
    Money,
    Reasons,
    Seconds,
    Str,
    UtcTime,
    clean_json,
    db_after,
    db_now,
    sum_money,
)
from tests.support.refusals import check_refusal, refuses

pytestmark = pytest.mark.own_database

metadata = MetaData()
values = Table(
    "sample",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcTime),
    Column("usd", Money),
    Column("body", Json),
    Column("words", Str),
    Column("lasts", Seconds),
    Column("why", Reasons),
)


@pytest.fixture
def sample(store: Store) -> Store:
    with store.write() as tx:
        metadata.create_all(tx)
    return store


def kept(store: Store, column: str, value, *, bulk: bool = False):
    """Return *value* as it is read after it was stored, alone or among many."""
    with store.write() as tx:
        tx.execute(values.delete())
        if bulk:
            insert_rows(tx, values, [{"id": number, column: value} for number in range(60)])
        else:
            tx.execute(insert(values).values(id=0, **{column: value}))
    with store.read() as tx:
        result = list(tx.execute(select(values.c[column]).order_by(values.c.id)).scalars())
    assert all(item == result[0] for item in result)
    return result[0]


JSON_VALUES = [
    {"z": 1, "a": [1, 2.5, None, True, {"q": "ä\u2028😀"}]},
    "text",
    "5",
    "null",
    '{"quoted": 1}',
    "",
    5,
    0,
    False,
    1.5,
    [],
    {},
    10**40,
    "back\\slash\ttab\nline",
]


@pytest.mark.parametrize("bulk", [False, True])
def test_json_comes_back_as_it_was(sample: Store, *, bulk: bool) -> None:
    for value in JSON_VALUES:
        result = kept(sample, "body", value, bulk=bulk)

        assert (result, type(result)) == (value, type(value))
    assert list(kept(sample, "body", {"z": 1, "a": 2, "m": 3}, bulk=bulk)) == ["z", "a", "m"]
    assert kept(sample, "body", None, bulk=bulk) is None


@pytest.mark.parametrize("bulk", [False, True])
def test_json_is_json_to_the_database_too(sample: Store, *, bulk: bool) -> None:
    kept(sample, "body", {"shell": "true"}, bulk=bulk)

    with sample.read() as tx:
        assert tx.execute(text("SELECT body ->> 'shell' FROM sample LIMIT 1")).scalar() == "true"


def nested(depth: int):
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def cause(error: Exception) -> Exception:
    """Return the refusal itself, where SQLAlchemy has wrapped it."""
    return error.orig if isinstance(error, StatementError) else error


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("-inf")],
        {1: 2},
        {"a": {None: 1}},
        nested(101),
        {"a": object()},
        {"a": {1, 2}},
        b"bytes",
        10**5_000,
        "x" * (MAX_JSON_BYTES + 1),
    ],
    ids=["nan", "infinity", "number-key", "none-key", "deep", "object", "set", "bytes", "long-number", "large"],
)
def test_what_is_not_json_is_refused_with_a_sentence(sample: Store, value) -> None:
    with pytest.raises((Refused, StatementError)) as caught:
        kept(sample, "body", value)

    check_refusal(cause(caught.value), Refused)


def test_the_deepest_json_that_is_allowed_is_kept(sample: Store) -> None:
    assert kept(sample, "body", nested(100)) == nested(100)


def test_what_no_database_can_hold_is_replaced_in_texts(sample: Store) -> None:
    assert kept(sample, "words", "a\x00b\ud800c") == "a\ufffdb\ufffdc"
    assert kept(sample, "body", {"k\x00": ["\udfff"]}) == {"k\ufffd": ["\ufffd"]}
    assert clean_json(("a", 1)) == ["a", 1]


def test_moments_come_back_in_utc(sample: Store) -> None:
    there = datetime(2026, 3, 29, 2, 30, 0, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))

    result = kept(sample, "at", there)

    assert result == there
    assert result.utcoffset() == timedelta(0)
    assert result.microsecond == 5


def test_a_moment_without_offset_is_refused(sample: Store) -> None:
    with pytest.raises((Refused, StatementError)) as caught:
        kept(sample, "at", datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point

    check_refusal(cause(caught.value), Refused)


def test_moments_sort_by_time_whatever_their_offset(sample: Store) -> None:
    base = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [
        base + timedelta(microseconds=1),
        base,
        (base + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-11))),
        base - timedelta(days=400),
    ]
    with sample.write() as tx:
        tx.execute(insert(values), [{"id": number, "at": moment} for number, moment in enumerate(moments)])

    with sample.read() as tx:
        assert list(tx.execute(select(values.c.id).order_by(values.c.at)).scalars()) == [3, 1, 0, 2]
        assert list(tx.execute(select(values.c.id).where(values.c.at > base)).scalars()) == [0, 2]


def test_the_databases_clock_is_aware_and_can_be_shifted(sample: Store) -> None:
    with sample.read() as tx:
        now, then = tx.execute(select(db_now(), db_after(90.5))).one()

    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
    assert timedelta(seconds=90.5) <= then - now < timedelta(seconds=91)


AMOUNTS = ["0.1", "0.000000000000000000000000000001", "1000000000000", "999999999999.999999999999999999999999999999"]


@pytest.mark.parametrize("amount", [*AMOUNTS, "-3.50", "0", "1E+3"])
def test_money_comes_back_to_the_last_digit(sample: Store, amount: str) -> None:
    for bulk in (False, True):
        result = kept(sample, "usd", Decimal(amount), bulk=bulk)

        assert isinstance(result, Decimal)
        assert result == Decimal(amount)


def test_ten_thousand_dimes_are_a_thousand_dollars(sample: Store) -> None:
    with sample.write() as tx:
        insert_rows(tx, values, [{"id": number, "usd": Decimal("0.1")} for number in range(10_000)])

    with sample.read() as tx:
        assert tx.execute(select(sum_money(values.c.usd))).scalar() == Decimal(1000)


@pytest.mark.parametrize("number", [0, 1, 49, 50, 500, 501, 1_001])
def test_however_many_rows_there_are_all_are_stored(sample: Store, number: int) -> None:
    with sample.write() as tx:
        insert_rows(tx, values, ({"id": each, "usd": Decimal(each)} for each in range(number)))

    with sample.read() as tx:
        assert tx.execute(select(values.c.usd).order_by(values.c.id)).scalars().all() == list(range(number))


def test_when_a_row_cannot_be_made_none_is_stored(sample: Store) -> None:
    def made() -> Iterator[dict[str, Any]]:
        yield from ({"id": each, "usd": Decimal(each)} for each in range(700))
        raise Refused("the seven hundredth")

    with refuses(Refused), sample.write() as tx:
        insert_rows(tx, values, made())

    with sample.read() as tx:
        assert tx.execute(select(func.count()).select_from(values)).scalar() == 0


def test_a_sum_loses_no_digit_between_a_trillion_and_the_thirtieth_place(sample: Store) -> None:
    with sample.write() as tx:
        tx.execute(insert(values), [{"id": number, "usd": Decimal(amount)} for number, amount in enumerate(AMOUNTS)])

    with sample.read() as tx:
        total = tx.execute(select(sum_money(values.c.usd))).scalar()
        nothing = tx.execute(select(sum_money(values.c.usd)).where(values.c.id > 100)).scalar()

    assert str(total) == "2000000000000.100000000000000000000000000000"
    assert nothing is None


def test_durations_and_reasons_come_back(sample: Store) -> None:
    assert kept(sample, "lasts", timedelta(hours=4, microseconds=250_000)) == timedelta(hours=4, microseconds=250_000)
    both = BlockReason.DEPENDENCIES | BlockReason.NOT_BEFORE
    assert kept(sample, "why", both) == both
    assert kept(sample, "why", both).names() == ["dependencies", "not_before"]
