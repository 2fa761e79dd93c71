"""Reads the usage file: JSON lines about model calls, which a job appends to the file named by COORD_COSTS.

A line is flat or has its numbers in an object ``usage``. An invalid line becomes a warning and never fails the job. A
missing price stays unknown and never becomes zero.
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
from coordination.domain.money.pricing import RESERVED_KEYS
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
_LARGEST_COUNT = 10**12  # far beyond any model, and millions of such values can be summed
_NUMBERS = ("input_tokens", "output_tokens", "cached_input_tokens", "total_tokens")
_KNOWN = frozenset({"model", "cost_usd", "timestamp", "id", "session_id", *_NUMBERS})
_NOT_EXTRA = _KNOWN | RESERVED_KEYS | READ_AS


def read_usage(path: str) -> tuple[tuple[Usage, ...], tuple[str, ...]]:
    """Return the model calls reported in *path*, and one warning for each part that could not be read."""
    try:
        data = _bytes(path, MAX_BYTES + 1)
    except FileNotFoundError:
        return (), ()
    except OSError as error:
        return (), (f"the usage file cannot be read: {error.strerror}",)
    return _read(path, data)


class UsageFile:
    """Follows a usage file while its job writes it. *record* gets all usage so far when there is more. Thread-safe."""

    def __init__(self, path: str, record: Callable[[Sequence[Usage]], object]) -> None:
        self._path = path
        self._record = record
        self._lock = threading.Lock()
        self._size = 0  # of the file
        self._read_to, self._lines = 0, 0  # bytes and lines that were read
        self._usage: list[Usage] = []

    def poll(self) -> None:
        """Read new complete lines, if there are any. ``end`` returns a warning of an unreadable file."""
        with self._lock, contextlib.suppress(OSError):
            self._poll()

    def end(self) -> tuple[tuple[Usage, ...], tuple[str, ...]]:
        """Record and return the result of ``read_usage``, after the last write."""
        usage, warnings = read_usage(self._path)
        if usage:
            self._record(usage)
        return usage, warnings

    def _poll(self) -> None:
        size = os.lstat(self._path).st_size  # in most cases there is none
        if size == self._size:
            return
        if size < self._size:  # it was overwritten
            self._read_to, self._lines, self._usage = 0, 0, []
        data = _bytes(self._path, MAX_BYTES - self._read_to, start=self._read_to)
        self._size = size
        whole = data[: data.rfind(b"\n") + 1]
        usage, _ = _read(self._path, whole, lines_before=self._lines)
        self._read_to += len(whole)
        self._lines += whole.count(b"\n")
        if usage:
            self._usage += usage
            self._record(tuple(self._usage))


def side_usage_file(path: str, control: Control) -> UsageFile:
    """Return the usage file of a side command; its usage is added to that of the job."""
    return UsageFile(path, partial(control.record_usage, part=path))


@contextlib.contextmanager
def meter_side_command(path: str, control: Control) -> Iterator[Callable[[], None]]:
    """Record the usage that a side command reports to *path*. Yields a function to call from time to time."""
    usage = side_usage_file(path, control)
    try:
        yield usage.poll
    finally:
        _, warnings = usage.end()
        for warning in warnings:
            control.event(EventType.PROGRESS, {"usage": warning})


def _bytes(path: str, most: int, *, start: int = 0) -> bytes:
    """Return bytes of a regular file; raises OSError for others: a pipe would block, a link may lead anywhere."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.EINVAL, "it is not a regular file", path) from None
        raise
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
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
    usage, bad = [], 0
    for number, line in enumerate(lines[: max(MAX_LINES - lines_before, 0)], start=lines_before + 1):
        try:
            record = jsonl.parse_line(number, line, decimals=True)
            if record is not None:
                mark = f"{cost_reports.execution_of(path)}:{number}.{hashlib.sha256(line).hexdigest()[:_MARK]}"
                usage.append(replace(_usage(record[1]), line=(path, number), mark=mark))
        except Refused as refusal:
            bad += 1
            if bad <= _MOST_WARNINGS:
                warnings.append(f"line {number} of the usage file was left out: {one_line(refusal.message, 300)}")
    if bad > _MOST_WARNINGS:
        warnings.append(f"{bad - _MOST_WARNINGS} more lines of the usage file were left out")
    return tuple(usage), tuple(warnings)


def with_warnings(log: str, warnings: Sequence[str]) -> str | None:
    """Return *log* with the warnings appended; None when both are empty."""
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
        # Some programs write 0.0 beside this flag when they do not know the price. Other currencies are not added up.
        cost_usd=None if fields.get("pricing_available") is False or foreign else _cost(fields.get("cost_usd")),
        # In a nested record, id and session are in the outer object.
        id=_name(fields, "id"),
        session_id=_name(fields, "session_id"),
        at=_moment(fields.get("timestamp")),
        extra=clean_json({name: value for name, value in fields.items() if name not in _NOT_EXTRA}),
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
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise Refused("timestamp is not a moment in ISO 8601", field="timestamp") from None
