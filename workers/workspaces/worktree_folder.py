"""A folder for one attempt's worktree, with a note beside it: whose it is, and how long it is kept.

A kept one goes early when its task has completed. What dead workers left goes when its task has ended, whatever as.

The note is locked for as long as the attempt lives, and with its process the lock goes: who can lock a note knows that
nobody works there any more. Folders below the root are ours alone; nothing else is ever taken away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from workers.runners import untrusted_files
from workers.runners.base import Control
from workers.workspaces.git import GitFailed
from workers.workspaces.merge_lock import records_turn

ASIDE = ".nested"
"""Behind a worktree's name: the folder beside it for what is put aside while its files are added."""

_NOTE = ".json"
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GIT_PATIENCE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task has ended, with the number of its last attempt."""

    completed: bool
    attempt: int


Ends = Callable[[Mapping[str, Sequence[str]]], Mapping[str, TaskEnd]]
"""From the ids of tasks, by workspace, to those of them that have ended."""


@dataclass(slots=True)
class WorktreeFolder:
    """One place. ``path`` is where the worktree goes; it does not exist yet when the lodging is taken."""

    path: Path
    common: Path
    _fd: int
    _owner: dict[str, Any]

    @property
    def root(self) -> Path:
        """The folder below which all worktrees are."""
        return self.path.parent.parent

    def leave(self) -> None:
        """Take the worktree away, its record in the repository, and the note."""
        try:
            _take_away(self.path, self.common, self.root)
            with contextlib.suppress(OSError):
                _note_of(self.path).unlink()
        finally:
            os.close(self._fd)
            self._fd = -1
        _drop_if_empty(self.path.parent)

    def keep(self, until: float, *, branch_goes: bool) -> None:
        """Leave the worktree where it is, until then (seconds since 1970); the task's branch may go with it."""
        branch = self._owner.get("branch") if branch_goes else None
        _write(self._fd, {"common": str(self.common), **self._owner, "branch": branch, "until": until})
        os.close(self._fd)
        self._fd = -1


def take(root: Path, run: str, name: str, *, common: Path, owner: Mapping[str, Any] | None = None) -> WorktreeFolder:
    """The lodging *name* of a run. What an earlier one of the same name left is taken away.

    *owner*: ``workspace``, ``task`` and ``attempt``, the task's ``branch``, and the ``author`` of its commits.
    """
    path = root / run / name
    fd = -1
    while fd < 0:
        with contextlib.suppress(FileNotFoundError):  # the last one to leave took the folder away
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(_note_of(path), _FLAGS | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():
            _take_away(path, common, root)
        _write(fd, {"common": str(common), **(owner or {})})
    except BaseException:
        os.close(fd)
        raise
    return WorktreeFolder(path, common, fd, dict(owner or {}))


def clear(root: Path, run: str, task: str) -> None:
    """Take away what earlier attempts of *task*, as its folders are called, have left. Nobody needs it any more."""
    for name in _names(root / run):
        stem, _, number = name.removesuffix(_NOTE).rpartition(".")
        if name.endswith(_NOTE) and stem == task and number.isdecimal():
            with _locked(root / run / name) as fd:
                if fd is not None:
                    _clear(root / run / name, _read(fd))


def sweep(root: Path, *, keep: timedelta, ends: Ends | None = None, now: float | None = None) -> int:
    """Take away what was kept long enough, and what dead workers left *keep* ago; how many worktrees that were.

    *ends* says which tasks have ended: what belongs to those goes earlier.
    """
    moment = time.time() if now is None else now
    swept = 0
    ended = {} if ends is None else ends(_owners(root))
    for run in _folders(root):
        for name in _names(run):
            if not name.endswith(_NOTE):
                continue
            with _locked(run / name) as fd:
                if fd is None:
                    continue  # somebody works there
                note = _read(fd)
                end = ended.get(str(note.get("task")))
                until = note.get("until")
                if not isinstance(until, int | float):
                    until = 0 if end is not None else os.fstat(fd).st_mtime + keep.total_seconds()
                elif end is not None and end.completed:
                    until = 0
                if moment >= until:
                    is_last = end is not None and end.attempt == note.get("attempt")
                    swept += _clear(run / name, note, with_branch=is_last)
        _drop_if_empty(run)
    return swept


def _owners(root: Path) -> dict[str, list[str]]:
    """The tasks that the notes below *root* name, by their workspaces."""
    owners: dict[str, list[str]] = {}
    for run in _folders(root):
        for name in _names(run):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                if name.endswith(_NOTE):
                    note = json.loads(untrusted_files.read(run / name))
                    owners.setdefault(str(note["workspace"]), []).append(str(note["task"]))
    return owners


def _clear(note_path: Path, note: Mapping[str, Any], *, with_branch: bool = False) -> bool:
    """Take one away; whether it went. What cannot go now goes later."""
    path, common = note_path.with_name(note_path.name.removesuffix(_NOTE)), Path(str(note.get("common", "")))
    try:
        _take_away(path, common, path.parent.parent)
        if with_branch and isinstance(branch := note.get("branch"), str):
            _drop_branch(common, branch)
        note_path.unlink()
    except (OSError, GitFailed, subprocess.SubprocessError):
        return False
    return True


def _drop_branch(common: Path, branch: str) -> None:
    command = [
        "git",
        "-c",
        "core.hooksPath=/dev/null",
        f"--git-dir={common}",
        "update-ref",
        "-d",
        f"refs/heads/{branch}",
    ]
    subprocess.run(command, check=False, capture_output=True, timeout=_GIT_PATIENCE)


def record_of(path: Path, common: Path) -> Path | None:
    """The folder in which the repository keeps what belongs to the worktree *path*."""
    return next((record for record in _records(common) if place_of(record) == path), None)


def has_company(path: Path, common: Path, author: str, *, since: float) -> bool:
    """Whether other attempts of the agent that commits as *author* work in the repository, or have failed *since*."""
    for run in _folders(path.parent.parent):
        for name in _names(run):
            note_path = run / name
            if not name.endswith(_NOTE) or note_path == _note_of(path):
                continue
            with contextlib.suppress(OSError, ValueError):
                note = json.loads(untrusted_files.read(note_path))
                if (note.get("common"), note.get("author")) == (str(common), author) and (
                    "until" not in note or note_path.stat().st_mtime >= since
                ):
                    return True
    return False


def is_worktree_folder(path: Path) -> bool:
    """Whether an attempt works, or has worked, in *path*."""
    return _note_of(path).exists()


def names_of_records(common: Path) -> frozenset[str]:
    """The names of all records of a repository's worktrees."""
    return frozenset(record.name for record in _records(common))


def take_away_others(paths: Iterable[Path], root: Path, common: Path) -> None:
    """Take away worktrees below *root* that a job made beside its own; elsewhere they are left to people."""
    for path in paths:
        if ".." not in path.parts and path.is_relative_to(root) and not is_worktree_folder(path):
            _take_away(path, common, root)


def place_of(record: Path) -> Path | None:
    """Where the worktree with this record is, as git has noted it."""
    try:
        return Path(untrusted_files.read(record / "gitdir").decode().rstrip("\n")).parent
    except (OSError, ValueError):
        return None


def _take_away(path: Path, common: Path, root: Path) -> None:
    records = _records_below(path, common) if common.is_absolute() else []
    for place in (path, path.with_name(path.name + ASIDE)):
        untrusted_files.take_away(place)
    if records:
        with records_turn(root, common, Control(scratch=path.parent)):
            for record in records:
                with contextlib.suppress(OSError):
                    untrusted_files.take_away(record)
            with contextlib.suppress(OSError), untrusted_files.parent_of(common / "worktrees") as (folder, name):
                os.rmdir(name, dir_fd=folder)


def _records_below(path: Path, common: Path) -> list[Path]:
    """The records of the worktree *path*, and of those that a job made inside of it."""
    places = {record: place_of(record) for record in _records(common)}
    return [record for record, place in places.items() if place is not None and place.is_relative_to(path)]


def _records(common: Path) -> list[Path]:
    """What may be records of worktrees; jobs can write there."""
    return [common / "worktrees" / name for name in untrusted_files.names_of_folders(common / "worktrees")]


@contextlib.contextmanager
def _locked(note: Path) -> Iterator[int | None]:
    try:
        fd = os.open(note, _FLAGS)
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
