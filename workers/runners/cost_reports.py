"""Usage reports of attempts on disk, kept until their costs are in the ledger, so that a killed worker loses none.

Every execution has its own file in its attempt's directory, to which its processes append. Usage that is only reported
to the worker (an agent's events, a chat's calls) is written to a journal beside these directories. Only this module
contains the paths and names of the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from coordination.domain.tasks.attempts import Usage

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


def keep(fence: Fence, path: str) -> None:
    """Keep a file or directory until the end of the attempt is stored."""
    with _lock:
        _kept.setdefault(fence, []).append(path)


def discard(fences: Iterable[Fence]) -> None:
    """Delete the reports of attempts whose costs are in the ledger."""
    if not _kept:
        return
    with _lock:
        paths = [path for fence in fences for path in _kept.pop(fence, ())]
    for path in paths:
        _delete(path)


def link_to(costs: str, root: Path) -> str:
    """Create a link in a kept directory to a usage file in another one. Return its path."""
    path = f"{root}{os.sep}{execution_of(costs)}{_AT}"
    with contextlib.suppress(OSError):
        os.symlink(costs, path)  # noqa: PTH211
    return path


def move(source: str, target: str) -> bool:
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
            keep(self._fence, self._path)
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
