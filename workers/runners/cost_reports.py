"""What attempts report of their costs, on disk until it is in the ledger: no death of a worker loses it.

Every execution has a file of its own in the folder of its attempt, which its processes append to. What is only told to
the worker (the story of an agent, the calls of a chat) is written beside these folders. Where files lie and what they
are called is known here alone.
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
"""How the name of a file of costs ends."""

MOST = 10_000_000
"""Bytes that are read of one file."""

_AT = ".costs.at"
_JOURNAL = ".journal.json"
_EXECUTION = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,9})\.[0-9a-f]+")
_ATTEMPT = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,9})")
_FOLDER = re.compile(r"([A-Za-z0-9_-]{22})\.([0-9]{1,9})\.[0-9a-f]+")

Fence = tuple[str, int]
"""A task and the number of its attempt."""


@dataclass(slots=True)
class UnsettledReports:
    """What is left of one attempt: the files that its processes wrote to, and the one with what its worker was told."""

    files: list[Path] = field(default_factory=list)
    journal: Path | None = None
    signposts: list[Path] = field(default_factory=list)  # to files that lie elsewhere

    def take_away(self) -> None:
        """It is in the ledger."""
        for path in (*self.files, *self.signposts, *([] if self.journal is None else [self.journal])):
            _take_away(str(path))


def folder_name(task_id: str, attempt: int, number: int) -> str:
    """Return what the folder of an attempt is called in its worker's; *number*: of the worker's folders so far."""
    return f"{urlsafe_b64encode(UUID(task_id).bytes).rstrip(b'=').decode()}.{attempt}.{number:x}"


def _fence_of_folder(name: str) -> Fence | None:
    match = _FOLDER.fullmatch(name)
    return None if match is None else (str(UUID(bytes=urlsafe_b64decode(f"{match[1]}=="))), int(match[2]))


def source_of(costs: str) -> str:
    """What no other file of costs is called, whoever reads it: as the execution whose processes write to it."""
    return costs.rpartition(os.sep)[2].removesuffix(COSTS)


def leftovers_in(folder: Path) -> dict[Fence, UnsettledReports]:
    """What the attempts of a worker have left in its folder. No link is followed.

    Jobs may write to the folders of their own attempts, which are in it: there only what has the attempt's name counts.
    """
    left: dict[Fence, UnsettledReports] = {}
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            _look_into(left, path)
        elif entry.name.endswith(_JOURNAL):
            fence = _fence(_ATTEMPT, entry.name.removesuffix(_JOURNAL))
            if fence is not None and is_report(entry.path):
                left.setdefault(fence, UnsettledReports()).journal = path
        elif entry.name.endswith(COSTS):
            _add_file(left, _fence(_EXECUTION, entry.name.removesuffix(COSTS)), path)
        elif entry.name.endswith(_AT) and entry.is_symlink():
            name, target = entry.name.removesuffix(_AT), _target(path)
            if target.name == name + COSTS:
                _add_file(left, _fence(_EXECUTION, name), target, signpost=path)
    return left


def _look_into(left: dict[Fence, UnsettledReports], folder: Path) -> None:
    if (fence := _fence_of_folder(folder.name)) is None:
        return
    for entry in _entries(folder):
        if entry.name.endswith(COSTS) and _fence(_EXECUTION, entry.name.removesuffix(COSTS)) == fence:
            _add_file(left, fence, Path(entry.path))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _add_file(
    left: dict[Fence, UnsettledReports], fence: Fence | None, path: Path, signpost: Path | None = None
) -> None:
    if fence is None or not is_report(str(path)):
        return
    of_attempt = left.setdefault(fence, UnsettledReports())
    of_attempt.files.append(path)
    if signpost is not None:
        of_attempt.signposts.append(signpost)


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except OSError:  # taken away at this moment
        return link


def is_report(path: str) -> bool:
    """Whether there is a regular file with something in it."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _fence(pattern: re.Pattern[str], name: str) -> Fence | None:
    found = pattern.fullmatch(name)
    return None if found is None else (found[1], int(found[2]))


# --- kept until the end of the attempt is stored

_lock = threading.Lock()
_roots: set[Path] = set()
_kept: dict[Fence, list[str]] = {}


def keep_in(root: Path) -> None:
    """From now on, what executions in this folder of our own have reported stays until it is discarded."""
    _roots.add(root)


def keeper_of(root: Path) -> Path | None:
    """Return the folder in which reports of executions in *root* stay: itself, the one around it, or none."""
    if root in _roots:
        return root
    return parent if (parent := root.parent) in _roots else None


def keep(fence: Fence, path: str) -> None:
    """This file, or folder, stays until the end of the attempt is stored."""
    with _lock:
        _kept.setdefault(fence, []).append(path)


def discard(fences: Iterable[Fence]) -> None:
    """What these attempts have spent is in the ledger."""
    if not _kept:
        return
    with _lock:
        paths = [path for fence in fences for path in _kept.pop(fence, ())]
    for path in paths:
        _take_away(path)


def point_to(costs: str, root: Path) -> str:
    """Leave word in a kept folder that a file of costs lies elsewhere; where the word is."""
    path = f"{root}{os.sep}{source_of(costs)}{_AT}"
    with contextlib.suppress(OSError):
        os.symlink(costs, path)  # noqa: PTH211
    return path


def move(source: str, target: str) -> bool:
    """Put what stands in one file into a new one, as far as it is read at all; whether that worked."""
    try:
        with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            data = file.read(MOST + 1)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
    except OSError:
        return False
    _take_away(source)
    return True


def _take_away(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


# --- what a worker was told

_NUMBERS = ("input_tokens", "output_tokens", "cached_input_tokens")


class CostJournal:
    """Keeps on disk what the worker was told in all of the calls of one attempt that stand in no file of costs."""

    def __init__(self, root: Path, fence: Fence) -> None:
        self._path = f"{root}{os.sep}{fence[0]}.{fence[1]}{_JOURNAL}"
        self._fence = fence
        self._last: Sequence[Usage] | None = None

    def write(self, used: Sequence[Usage]) -> None:
        """This is all so far. What cannot be written is only missing should this worker die."""
        if used == self._last or (not used and self._last is None):
            return
        if self._last is None:
            keep(self._fence, self._path)
        self._last = list(used)
        draft = f"{self._path}.new"
        with contextlib.suppress(OSError):
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:  # noqa: PTH123
                json.dump([_to_json(one) for one in used], file)
            os.replace(draft, self._path)  # noqa: PTH105


def read_journal(path: Path) -> list[Usage]:
    """What was written there; nothing where it cannot be understood."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            return [_from_json(one) for one in json.loads(file.read(MOST))]
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError):
        return []


def _to_json(one: Usage) -> dict[str, Any]:
    return {
        "model": one.model,
        **{name: getattr(one, name) for name in _NUMBERS},
        "total_tokens": one.total_tokens,
        "cost_usd": None if one.cost_usd is None else f"{one.cost_usd:f}",
        "id": one.id,
        "session_id": one.session_id,
        "at": None if one.at is None else one.at.isoformat(),
        "extra": one.extra,
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
