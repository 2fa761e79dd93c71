"""The usage file: JSON lines about model calls, which a job appends to the file named by COORD_COSTS.

Functions that read it, and that keep it until its costs are in the ledger.

A line is flat or has its numbers in an object ``usage``. An invalid line becomes a warning and never fails the job. A
missing price stays unknown and never becomes zero.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from coordination.base import json_values
from coordination.base.errors import Refused
from coordination.base.money import usd
from coordination.domain.money.pricing import RESERVED_KEYS
from coordination.domain.tasks.attempts import Usage
from coordination.domain.tasks.events import EventType
from coordination.formats.costs_jsonl import READ_AS
from workers.runners.base import Control
from workers.runners.output import clean_json, clean_text, one_line

COSTS = ".costs.jsonl"
"""Suffix of a usage file's name."""

MOST = 10_000_000
"""Most bytes that are read of one file."""

_AT = ".costs.at"
_JOURNAL = ".journal.json"
_EXECUTION = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,9})\.[0-9a-f]+")
_ATTEMPT = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,9})")
_FOLDER = re.compile(r"([A-Za-z0-9_-]{22})\.([0-9]{1,9})\.[0-9a-f]+")

Fence = tuple[str, int]
"""A task and the number of its attempt."""


@dataclass(slots=True)
class UnsettledReports:
    """Files of one attempt: usage files that its processes wrote, and the journal that its worker wrote."""

    files: list[Path] = field(default_factory=list)
    journal: Path | None = None
    links: list[Path] = field(default_factory=list)  # to usage files in other directories

    def delete(self) -> None:
        """Delete the files, once their costs are in the ledger."""
        for path in (*self.files, *self.links, *([] if self.journal is None else [self.journal])):
            _delete(str(path))


def folder_name(task_id: str, attempt: int, number: int) -> str:
    """Return the name of an attempt's directory. *number*: how many directories the worker made before."""
    return f"{urlsafe_b64encode(UUID(task_id).bytes).rstrip(b'=').decode()}.{attempt}.{number:x}"


def execution_of(costs: str) -> str:
    """Return the unique name of a usage file, which is the name of its execution."""
    return costs.rpartition(os.sep)[2].removesuffix(COSTS)


def unsettled_in(folder: Path) -> dict[Fence, UnsettledReports]:
    """Return the reports in a worker's directory by attempt. Follows no links.

    Jobs may write to their attempt's directory, so a file in it counts only if it has the attempt's name.
    """
    reports_by_fence: dict[Fence, UnsettledReports] = {}
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            _add_attempt_folder(reports_by_fence, path)
        elif entry.name.endswith(_JOURNAL):
            fence = _fence(_ATTEMPT, entry.name.removesuffix(_JOURNAL))
            if fence is not None and is_report(entry.path):
                reports_by_fence.setdefault(fence, UnsettledReports()).journal = path
        elif entry.name.endswith(COSTS):
            _add_file(reports_by_fence, _fence(_EXECUTION, entry.name.removesuffix(COSTS)), path)
        elif entry.name.endswith(_AT) and entry.is_symlink():
            name, target = entry.name.removesuffix(_AT), _target(path)
            if target.name == name + COSTS:
                _add_file(reports_by_fence, _fence(_EXECUTION, name), target, link=path)
    return reports_by_fence


def _add_attempt_folder(reports_by_fence: dict[Fence, UnsettledReports], folder: Path) -> None:
    if (match := _FOLDER.fullmatch(folder.name)) is None:
        return
    fence = str(UUID(bytes=urlsafe_b64decode(f"{match[1]}=="))), int(match[2])
    for entry in _entries(folder):
        if entry.name.endswith(COSTS) and _fence(_EXECUTION, entry.name.removesuffix(COSTS)) == fence:
            _add_file(reports_by_fence, fence, Path(entry.path))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _add_file(
    reports_by_fence: dict[Fence, UnsettledReports], fence: Fence | None, path: Path, link: Path | None = None
) -> None:
    if fence is None or not is_report(str(path)):
        return
    reports = reports_by_fence.setdefault(fence, UnsettledReports())
    reports.files.append(path)
    if link is not None:
        reports.links.append(link)


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except OSError:  # just deleted
        return link


def is_report(path: str) -> bool:
    """Return whether *path* is a regular file that is not empty."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _fence(pattern: re.Pattern[str], name: str) -> Fence | None:
    match = pattern.fullmatch(name)
    return None if match is None else (match[1], int(match[2]))


# --- files that are kept until the end of their attempt is stored

_lock = threading.Lock()
_roots: set[Path] = set()
_kept: dict[Fence, list[str]] = {}


def keep_in(root: Path) -> None:
    """Keep the reports of executions in *root*, a directory of this process, until they are discarded."""
    _roots.add(root)


def keeping_root(root: Path) -> Path | None:
    """Return the directory that keeps the reports of executions in *root*: *root*, its parent, or none."""
    if root in _roots:
        return root
    return parent if (parent := root.parent) in _roots else None


def keep_report(fence: Fence, path: str) -> None:
    """Keep a file or directory until the end of the attempt is stored."""
    with _lock:
        _kept.setdefault(fence, []).append(path)


def discard_report(fences: Iterable[Fence]) -> None:
    """Delete the reports of attempts whose costs are in the ledger."""
    if not _kept:
        return
    with _lock:
        paths = [path for fence in fences for path in _kept.pop(fence, ())]
    for path in paths:
        _delete(path)


def link_report(costs: str, root: Path) -> str:
    """Create a link in a kept directory to a usage file in another one. Return its path."""
    path = f"{root}{os.sep}{execution_of(costs)}{_AT}"
    with contextlib.suppress(OSError):
        os.symlink(costs, path)  # noqa: PTH211
    return path


def move_report(source: str, target: str) -> bool:
    """Move the first ``MOST`` bytes of a file to a new file. Return whether that succeeded."""
    try:
        with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            data = file.read(MOST + 1)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
    except OSError:
        return False
    _delete(source)
    return True


def _delete(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


# --- usage that is reported to the worker

_COPIED = ("model", "input_tokens", "output_tokens", "cached_input_tokens", "total_tokens", "id", "session_id", "extra")


class CostJournal:
    """Keeps the usage of one attempt on disk that no usage file contains."""

    def __init__(self, root: Path, fence: Fence) -> None:
        self._path = f"{root}{os.sep}{fence[0]}.{fence[1]}{_JOURNAL}"
        self._fence = fence
        self._last: Sequence[Usage] | None = None

    def write(self, used: Sequence[Usage]) -> None:
        """Replace the content by the usage so far. A failed write matters only if this worker dies."""
        if used == self._last or (not used and self._last is None):
            return
        if self._last is None:
            keep_report(self._fence, self._path)
        self._last = list(used)
        draft = f"{self._path}.new"
        with contextlib.suppress(OSError):
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:  # noqa: PTH123
                json.dump([_to_json(usage) for usage in used], file)
            os.replace(draft, self._path)  # noqa: PTH105


def read_journal(path: Path) -> list[Usage]:
    """Read a journal. Return an empty list when it is malformed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            return [_from_json(item) for item in json.loads(file.read(MOST))]
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError):
        return []


def _to_json(usage: Usage) -> dict[str, Any]:
    return {
        **{name: getattr(usage, name) for name in _COPIED},
        "cost_usd": None if usage.cost_usd is None else f"{usage.cost_usd:f}",
        "at": None if usage.at is None else usage.at.isoformat(),
    }


def _from_json(stored: dict[str, Any]) -> Usage:
    return Usage(
        str(stored["model"]),
        int(stored["input_tokens"]),
        int(stored["output_tokens"]),
        int(stored["cached_input_tokens"]),
        total_tokens=None if stored["total_tokens"] is None else int(stored["total_tokens"]),
        cost_usd=None if stored["cost_usd"] is None else Decimal(stored["cost_usd"]),
        id=stored["id"],
        session_id=stored["session_id"],
        at=None if stored["at"] is None else datetime.fromisoformat(stored["at"]),
        extra=dict(stored["extra"]),
    )


MAX_BYTES = MOST
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
            record = json_values.parse_line(number, line, decimals=True)
            if record is not None:
                mark = f"{execution_of(path)}:{number}.{hashlib.sha256(line).hexdigest()[:_MARK]}"
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
