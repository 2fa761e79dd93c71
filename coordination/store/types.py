"""Column types that mean the same on both databases (ids, times, money, validated JSON), and SQL functions."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import CHAR, DateTime, Dialect, Float, Integer, Numeric, Text, TypeDecorator, Uuid
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine, UserDefinedType

from coordination.base.errors import Refused
from coordination.domain.tasks.tasks import BlockReason

MAX_JSON_BYTES = 16_000_000
_MAX_DEPTH = 100
_MAX_NUMBER_BITS = 4_096  # Python converts no integers of more than 4,300 digits

# PostgreSQL can store neither NUL nor a lone surrogate, and neither has a meaning in a text.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

Id = Uuid(as_uuid=False).with_variant(CHAR(36), "sqlite")
"""A UUID: native on PostgreSQL, canonical text on SQLite, ``str`` in Python."""


def clean_text(text: str) -> str:
    """Return *text* with characters that no database can store (NUL, lone surrogates) replaced by U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\ufffd", text)


def clean_json(value: Any) -> Any:
    """Return *value* as plain JSON.

    Raises Refused for NaN, infinity, keys that are not texts, other types, deep nesting.
    """
    return _clean(value, 0)


def _clean(value: Any, depth: int) -> Any:  # noqa: C901 - one case per JSON type
    if depth > _MAX_DEPTH:
        raise Refused(f"A JSON value nests deeper than {_MAX_DEPTH} levels")
    match value:
        case str():
            return clean_text(value)
        case None | bool():
            return value
        case int():
            if value.bit_length() > _MAX_NUMBER_BITS:
                raise Refused("A JSON value contains a number of more than a thousand digits")
            return value
        case float():
            if not math.isfinite(value):
                raise Refused("A JSON value contains NaN or infinity, which JSON cannot express")
            return value
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise Refused("A JSON object has a key that is not a text")
            return {clean_text(key): _clean(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item, depth + 1) for item in value]
    raise Refused(f"A {type(value).__name__} cannot be stored as JSON")


class UtcTime(TypeDecorator[datetime]):
    """An aware time. PostgreSQL: timestamptz. SQLite: ISO text in UTC with offset, fixed width, so it sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise Refused("A time needs its offset from UTC")
        return iso(value) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return datetime.fromisoformat(value) if dialect.name == "sqlite" else value.astimezone(UTC)


def iso(moment: datetime) -> str:
    """Return *moment* in SQLite's stored form: ``2026-11-20T20:18:32.123456+00:00``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


class Money(TypeDecorator[Decimal]):
    """Exact dollars. PostgreSQL: numeric. SQLite: decimal text, because its REAL would round."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return f"{value:f}" if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class _EncodedJson(UserDefinedType[Any]):
    """PostgreSQL's json for encoded values; SQLAlchemy's own type would encode them again, as texts."""

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_kw: Any) -> str:
        return "JSON"


class Json(TypeDecorator[Any]):
    """A JSON value, validated before it is stored as text, so that key order and number forms are kept."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else _EncodedJson())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        text = _encode(clean_json(value))
        if len(text) > MAX_JSON_BYTES:
            raise Refused(f"A JSON value of {len(text):,} characters is larger than {MAX_JSON_BYTES:,}")
        return text

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return json.loads(value) if value is not None and dialect.name == "sqlite" else value


class Str(TypeDecorator[str]):
    """A text without characters that no database can store."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_text(value)


class Seconds(TypeDecorator[timedelta]):
    """A duration, stored as seconds."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> float | None:
        return None if value is None else value.total_seconds()

    def process_result_value(self, value: float | None, dialect: Dialect) -> timedelta | None:
        return None if value is None else timedelta(seconds=value)


class Reasons(TypeDecorator[BlockReason]):
    """The bit mask of a task's block reasons."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> BlockReason | None:
        return None if value is None else BlockReason(value)


class db_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock: the start of the transaction on PostgreSQL, the host's clock on SQLite."""

    type = UtcTime()
    inherit_cache = True


class db_after(FunctionElement[datetime]):  # noqa: N801
    """The database's clock plus a number of seconds: ``db_after(30.0)``; negative is the past."""

    type = UtcTime()
    inherit_cache = True


class looked_up(FunctionElement[Any]):  # noqa: N801
    """``tasks.c.id == looked_up(attempts.c.task_id)``: a join that looks up the partner of each row.

    PostgreSQL keeps a plan as long as the connection. One from when a table was small may read its whole index for a
    merge or a hash join once it is large; this comparison can be neither merged nor hashed.
    """

    inherit_cache = True


class sum_money(FunctionElement[Decimal]):  # noqa: N801
    """Exact sum of a Money column; NULL without rows."""

    type = Money()
    inherit_cache = True


class minus_money(FunctionElement[Decimal]):  # noqa: N801
    """A Money value with the opposite sign."""

    type = Money()
    inherit_cache = True


class local_day(FunctionElement[str]):  # noqa: N801
    """The day of a time in a zone, ``local_day('Europe/Berlin', moment)``, as 2027-01-31."""

    type = Str()
    inherit_cache = True


class commit_order(FunctionElement[int]):  # noqa: N801
    """The id of the writing transaction, from which a reader that tails a table knows which rows may still appear."""

    type = Integer()
    inherit_cache = True


class visible_below(FunctionElement[int]):  # noqa: N801
    """An id below which all transactions have ended, so that none of their rows can still appear."""

    type = Integer()
    inherit_cache = True


def _render(template: str, element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    return template.format(compiler.process(element.clauses, **kw))


for _function, _postgresql, _sqlite in (
    (db_now, "now()", "utc_now()"),
    (db_after, "now() + make_interval(secs => {})", "utc_after({})"),
    (looked_up, "ANY (ARRAY[{}])", "{}"),
    (sum_money, "sum({})", "sum_money({})"),
    (minus_money, "(-{})", "minus_money({})"),
    (local_day, "to_char(timezone({}), 'YYYY-MM-DD')", "local_day({})"),
    (commit_order, "pg_current_xact_id()::text::bigint", "0"),
    (visible_below, "pg_snapshot_xmin(pg_current_snapshot())::text::bigint", "1"),
):
    compiles(_function, "postgresql")(partial(_render, _postgresql))
    compiles(_function, "sqlite")(partial(_render, _sqlite))
