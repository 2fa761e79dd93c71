"""A folder for one attempt's worktree, with a note beside it: whose it is, and how long it is kept.

The note is locked for as long as the attempt lives, and with its process the lock goes: who can lock a note knows that
nobody works there any more. Folders below the root are ours alone; nothing else is ever taken away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from workers.own_folders import take_away
from workers.runners.base import Control
from workers.workspaces.git import GitFailed
from workers.workspaces.turns import records_turn

_NOTE = ".json"


@dataclass(slots=True)
class Lodging:
    """One place. ``path`` is where the worktree goes; it does not exist yet when the lodging is taken."""

    path: Path
    common: Path
    _fd: int

    def leave(self) -> None:
        """Take the worktree away, its record in the repository, and the note."""
        try:
            _take_away(self.path, self.common)
            with contextlib.suppress(OSError):
                _note_of(self.path).unlink()
        finally:
            os.close(self._fd)
            self._fd = -1
        _drop_if_empty(self.path.parent)

    def keep(self, until: float) -> None:
        """Leave the worktree where it is, until then (seconds since 1970)."""
        _write(self._fd, {"common": str(self.common), "until": until})
        os.close(self._fd)
        self._fd = -1


def take(root: Path, run: str, name: str, *, common: Path) -> Lodging:
    """The lodging *name* of a run. What an earlier one of the same name left is taken away."""
    path = root / run / name
    fd = -1
    while fd < 0:
        with contextlib.suppress(FileNotFoundError):  # the last one to leave took the folder away
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(_note_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():
            _take_away(path, common)
        _write(fd, {"common": str(common)})
    except BaseException:
        os.close(fd)
        raise
    return Lodging(path, common, fd)


def sweep(root: Path, *, keep: timedelta, now: float | None = None) -> int:
    """Take away what was kept long enough, and what dead workers left *keep* ago; how many worktrees that were."""
    moment = time.time() if now is None else now
    swept = 0
    for run in _folders(root):
        for name in _names(run):
            if not name.endswith(_NOTE):
                continue
            path = run / name.removesuffix(_NOTE)
            with _locked(run / name) as fd:
                if fd is None:
                    continue  # somebody works there
                note = _read(fd)
                until = note.get("until")
                if not isinstance(until, int | float):
                    until = os.fstat(fd).st_mtime + keep.total_seconds()
                if moment < until:
                    continue
                with contextlib.suppress(OSError, GitFailed):  # what cannot go now goes later
                    _take_away(path, Path(str(note.get("common", ""))))
                    (run / name).unlink()
                    swept += 1
        _drop_if_empty(run)
    return swept


def record_of(path: Path, common: Path) -> Path | None:
    """The folder in which the repository keeps what belongs to the worktree *path*."""
    for folder in _folders(common / "worktrees"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if Path((folder / "gitdir").read_text(encoding="utf-8").rstrip("\n")) == path / ".git":
                return folder
    return None


def _take_away(path: Path, common: Path) -> None:
    record = record_of(path, common) if common.is_absolute() else None
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        take_away(path)
    if record is not None:
        with records_turn(common, Control(scratch=path.parent)):
            shutil.rmtree(record, ignore_errors=True)
            _drop_if_empty(record.parent)


@contextlib.contextmanager
def _locked(note: Path) -> Iterator[int | None]:
    try:
        fd = os.open(note, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield fd
    finally:
        os.close(fd)


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + _NOTE)


def _write(fd: int, note: dict[str, Any]) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(note).encode(), 0)


def _read(fd: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(fd, 1 << 16, 0))
    except ValueError:
        return {}  # its writer died over it
    return found if isinstance(found, dict) else {}


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []


def _folders(root: Path) -> list[Path]:
    return [root / name for name in _names(root) if (root / name).is_dir() and not (root / name).is_symlink()]


def _drop_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
