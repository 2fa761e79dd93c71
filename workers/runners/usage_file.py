"""Reads what a job reports of its model calls: the JSON lines it appended to the file that COORD_COSTS names.

A line is flat or has its numbers in an object ``usage``. A line that cannot be read becomes a warning, never a failure
of the job; a price that is not given stays unknown and never turns into zero.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

from coordination.base.errors import Refused
from coordination.base.money import usd
from coordination.domain.money.pricing import OURS
from coordination.domain.tasks.attempts import Usage
from coordination.domain.tasks.events import EventType
from coordination.formats import jsonl
from coordination.formats.costs_jsonl import READ_AS
from workers.runners import cost_reports
from workers.runners.base import Control
from workers.runners.output import clean_json, clean_text, one_line

MAX_BYTES = cost_reports.MOST
MAX_LINES = 10_000

_MOST_WARNINGS = 20
_LONGEST_NAME = 200
_MARK = 12  # hexadecimal digits
_LARGEST_COUNT = 10**12  # far beyond any model, and millions of it can be added up
_NUMBERS = ("input_tokens", "output_tokens", "cached_input_tokens", "total_tokens")
_KNOWN = frozenset({"model", "cost_usd", "timestamp", "id", "session_id", *_NUMBERS})
_NOT_THEIRS = _KNOWN | OURS | READ_AS


def read(path: str) -> tuple[tuple[Usage, ...], tuple[str, ...]]:
    """The model calls that *path* reports, and one sentence for everything in it that could not be read."""
    try:
        data = _bytes(path, MAX_BYTES + 1)
    except FileNotFoundError:
        return (), ()
    except OSError as error:
        return (), (f"the usage file cannot be read: {error.strerror}",)
    return _read(path, data)


class UsageFile:
    """The same file while its job writes it: *tell* is told of all that it reports when that is more. Thread-safe."""

    def __init__(self, path: str, tell: Callable[[Sequence[Usage]], object]) -> None:
        self._path = path
        self._tell = tell
        self._lock = threading.Lock()
        self._size, self._read_to, self._lines = 0, 0, 0  # of the file; of what was read, bytes and lines
        self._found: list[Usage] = []

    def look(self) -> None:
        """See whether there are new lines, and read these alone. One that is not finished is left for later."""
        with self._lock:
            self._look()

    def end(self) -> tuple[tuple[Usage, ...], tuple[str, ...]]:
        """What ``read`` finds, now that nobody writes any more; *tell* is told of it."""
        found, warnings = read(self._path)
        if found:
            self._tell(found)
        return found, warnings

    def _look(self) -> None:
        try:
            size = os.lstat(self._path).st_size  # mostly it is not there
            if size == self._size:
                return
            if size < self._size:  # written over; whoever reads it at the end sees what else was
                self._read_to, self._lines, self._found = 0, 0, []
            data = _bytes(self._path, MAX_BYTES - self._read_to, start=self._read_to)
        except OSError:
            return  # whoever reads it at the end says so
        self._size = size
        whole = data[: data.rfind(b"\n") + 1]
        found, _ = _read(self._path, whole, lines_before=self._lines)
        self._read_to += len(whole)
        self._lines += whole.count(b"\n")
        if found:
            self._found += found
            self._tell(tuple(self._found))


def following(path: str, control: Control) -> UsageFile:
    """The file of what surrounds a job: it counts beside what the job itself tells *control*."""
    return UsageFile(path, partial(control.spent, part=path))


@contextlib.contextmanager
def metered(path: str, control: Control) -> Iterator[Callable[[], None]]:
    """Count what processes report to *path* meanwhile; what is given is to be called now and then while they run."""
    spending = following(path, control)
    try:
        yield spending.look
    finally:
        _, warnings = spending.end()
        for warning in warnings:
            control.event(EventType.PROGRESS, {"usage": warning})


def _bytes(path: str, most: int, *, start: int = 0) -> bytes:
    """Some of its bytes; OSError for what is no file: a pipe would keep its reader waiting, a link leads anywhere."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.EINVAL, "it is no regular file", path) from None
        raise
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        file.seek(start)
        return file.read(most)


def _read(path: str, data: bytes, *, lines_before: int = 0) -> tuple[tuple[Usage, ...], tuple[str, ...]]:
    warnings = []
    if len(data) > MAX_BYTES:
        data = data[:MAX_BYTES].rpartition(b"\n")[0]
        warnings.append(f"the usage file is longer than {MAX_BYTES:,} bytes; the rest was not read")
    lines = data.split(b"\n")
    if len(lines) > MAX_LINES + 1:
        warnings.append(f"the usage file has more than {MAX_LINES:,} lines; the rest was not read")
    found, bad = [], 0
    for number, line in enumerate(lines[: max(MAX_LINES - lines_before, 0)], start=lines_before + 1):
        try:
            record = jsonl.parse_line(number, line, decimals=True)
            if record is not None:
                mark = f"{cost_reports.execution_of(path)}:{number}.{hashlib.sha256(line).hexdigest()[:_MARK]}"
                found.append(replace(_usage(record[1]), line=(path, number), mark=mark))
        except Refused as refusal:
            bad += 1
            if bad <= _MOST_WARNINGS:
                warnings.append(f"line {number} of the usage file was left out: {one_line(refusal.message, 300)}")
    if bad > _MOST_WARNINGS:
        warnings.append(f"{bad - _MOST_WARNINGS} more lines of the usage file were left out")
    return tuple(found), tuple(warnings)


def with_warnings(log: str, warnings: Sequence[str]) -> str | None:
    """A job's log with the warnings below it; None when there is nothing to say."""
    if not warnings:
        return log or None
    separator = "" if not log or log.endswith("\n") else "\n"
    return f"{log}{separator}" + "\n".join(f"[usage] {warning}" for warning in warnings)


def _usage(record: dict[str, Any]) -> Usage:
    nested = record.get("usage")
    fields: Mapping[str, Any] = record
    if isinstance(nested, dict):
        fields = {name: value for name, value in record.items() if name != "usage"} | nested
    model = fields.get("model")
    if not isinstance(model, str) or not model.strip() or len(model) > _LONGEST_NAME:
        raise Refused("it names no model", field="model")
    counts = {name: _count(fields, name) for name in _NUMBERS}
    foreign = fields.get("currency") not in (None, "USD", "usd")
    return Usage(
        model=clean_text(model),
        input_tokens=counts["input_tokens"] or 0,
        output_tokens=counts["output_tokens"] or 0,
        cached_input_tokens=counts["cached_input_tokens"] or 0,
        total_tokens=counts["total_tokens"],
        # A foreign program writes 0.0 beside this mark when it did not know the price. Other money is not added up.
        cost_usd=None if fields.get("pricing_available") is False or foreign else _cost(fields.get("cost_usd")),
        # Nested records carry the record's own id and session outside; the inner object has none.
        id=_name(fields, "id"),
        session_id=_name(fields, "session_id"),
        at=_moment(fields.get("timestamp")),
        extra=clean_json({name: _plain(value) for name, value in fields.items() if name not in _NOT_THEIRS}),
    )


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value) if abs(value) <= _LARGEST_COUNT else -1
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_COUNT:
        raise Refused(f"{name} is not a number of tokens", field=name)
    return value


def _cost(value: Any) -> Decimal | None:
    if value is None:
        return None
    if not isinstance(value, str | int | Decimal):
        raise Refused("cost_usd is not an amount of money", field="cost_usd")
    amount = usd(value, field="cost_usd")
    if amount < 0:
        raise Refused("cost_usd is negative", field="cost_usd")
    return amount


def _name(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise Refused(f"{name} is not a text of at most {_LONGEST_NAME} characters", field=name)
    return clean_text(value)


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Refused("timestamp is not a moment in ISO 8601", field="timestamp") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise Refused("timestamp is not a moment in ISO 8601", field="timestamp") from None


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return float(value)
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case _:
            return value
