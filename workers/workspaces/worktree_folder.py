"""Directories of attempts' worktrees, each with a note beside it that contains its owner and how long it is kept.

A kept worktree is deleted early when its task completes; one that a dead worker left, when its task has ended in any
way. The note is locked while the attempt runs, and the kernel releases the lock with the process: a note that can be
locked has no running attempt. Only directories below the root are ever deleted.
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
from workers.workspaces.merge_lock import records_lock

ASIDE = ".nested"
"""Suffix of the directory beside a worktree for ``.git`` entries that are moved aside while its files are added."""

_NOTE = ".json"
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GIT_PATIENCE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended, with the number of its last attempt."""

    completed: bool
    attempt: int


Ends = Callable[[Mapping[str, Sequence[str]]], Mapping[str, TaskEnd]]
"""Returns the ends of those tasks that have ended, from task ids by workspace."""


@dataclass(slots=True)
class WorktreeFolder:
    """One locked directory. ``path`` is that of the worktree, which does not exist yet when the folder is taken."""

    path: Path
    common: Path
    _fd: int
    _owner: dict[str, Any]

    @property
    def root(self) -> Path:
        """The directory of all worktrees."""
        return self.path.parent.parent

    def leave(self) -> None:
        """Delete the worktree, its record in the repository, and the note."""
        try:
            _delete(self.path, self.common, self.root)
            with contextlib.suppress(OSError):
                _note_of(self.path).unlink()
        finally:
            os.close(self._fd)
            self._fd = -1
        _drop_if_empty(self.path.parent)

    def keep(self, until: float, *, branch_goes: bool) -> None:
        """Keep the worktree until then (seconds since 1970). *branch_goes*: the task's branch is deleted with it."""
        branch = self._owner.get("branch") if branch_goes else None
        _write(self._fd, {"common": str(self.common), **self._owner, "branch": branch, "until": until})
        os.close(self._fd)
        self._fd = -1


def acquire(root: Path, run: str, name: str, *, common: Path, owner: Mapping[str, Any] | None = None) -> WorktreeFolder:
    """Lock and return the folder *name* of a run. Deletes what an earlier one of this name left.

    *owner*: ``workspace``, ``task`` and ``attempt``, the task's ``branch``, and the ``author`` of its commits.
    """
    path = root / run / name
    fd = -1
    while fd < 0:
        with contextlib.suppress(FileNotFoundError):  # another process has just deleted the empty directory
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(_note_of(path), _FLAGS | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():
            _delete(path, common, root)
        _write(fd, {"common": str(common), **(owner or {})})
    except BaseException:
        os.close(fd)
        raise
    return WorktreeFolder(path, common, fd, dict(owner or {}))


def delete_earlier(root: Path, run: str, task: str) -> None:
    """Delete what earlier attempts left. *task*: the stem of the names of its folders."""
    for note_path in _notes_in(root / run):
        stem, _, number = note_path.name.removesuffix(_NOTE).rpartition(".")
        if stem == task and number.isdecimal():
            with _try_lock(note_path) as fd:
                if fd is not None:
                    _clear(note_path, _read(fd))


def sweep(root: Path, *, keep: timedelta, ends: Ends | None = None, now: float | None = None) -> int:
    """Delete worktrees whose time is over, and those that dead workers left *keep* ago. Return how many.

    *ends*: returns ended tasks, whose worktrees are deleted earlier.
    """
    moment = time.time() if now is None else now
    swept = 0
    ended = {} if ends is None else ends(_owners(root))
    for run in _folders(root):
        for note_path in _notes_in(run):
            with _try_lock(note_path) as fd:
                if fd is None:
                    continue  # an attempt is running there
                note = _read(fd)
                end = ended.get(str(note.get("task")))
                until = note.get("until")
                if not isinstance(until, int | float):
                    until = 0 if end is not None else os.fstat(fd).st_mtime + keep.total_seconds()
                elif end is not None and end.completed:
                    until = 0
                if moment >= until:
                    is_last = end is not None and end.attempt == note.get("attempt")
                    swept += _clear(note_path, note, with_branch=is_last)
        _drop_if_empty(run)
    return swept


def _owners(root: Path) -> dict[str, list[str]]:
    """Return the task ids in the notes below *root*, by workspace id."""
    owners: dict[str, list[str]] = {}
    for note_path in _all_notes(root):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            note = json.loads(untrusted_files.read(note_path))
            owners.setdefault(str(note["workspace"]), []).append(str(note["task"]))
    return owners


def _clear(note_path: Path, note: Mapping[str, Any], *, with_branch: bool = False) -> bool:
    """Delete one worktree and its note. Return whether that succeeded; a later sweep retries."""
    path, common = note_path.with_name(note_path.name.removesuffix(_NOTE)), Path(str(note.get("common", "")))
    try:
        _delete(path, common, path.parent.parent)
        if with_branch and isinstance(branch := note.get("branch"), str):
            _drop_branch(common, branch)
        note_path.unlink()
    except (OSError, GitFailed, subprocess.SubprocessError):
        return False
    return True


def _drop_branch(common: Path, branch: str) -> None:
    git = ["git", "-c", "core.hooksPath=/dev/null", f"--git-dir={common}"]
    command = [*git, "update-ref", "-d", f"refs/heads/{branch}"]
    subprocess.run(command, check=False, capture_output=True, timeout=_GIT_PATIENCE)


def record_of(path: Path, common: Path) -> Path | None:
    """Return the repository's record directory of the worktree *path*."""
    return next((record for record in _records(common) if place_of(record) == path), None)


def has_other_attempts(path: Path, common: Path, author: str, *, since: float) -> bool:
    """Return whether other attempts of the agent *author* run in the repository or have failed *since*."""
    for note_path in _all_notes(path.parent.parent):
        if note_path == _note_of(path):
            continue
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(untrusted_files.read(note_path))
            is_of_author = (note.get("common"), note.get("author")) == (str(common), author)
            if is_of_author and ("until" not in note or note_path.stat().st_mtime >= since):
                return True
    return False


def is_worktree_folder(path: Path) -> bool:
    """Return whether *path* is or was the worktree of an attempt."""
    return _note_of(path).exists()


def record_names(common: Path) -> frozenset[str]:
    """Return the names of all worktree records of a repository."""
    return frozenset(record.name for record in _records(common))


def delete_others(paths: Iterable[Path], root: Path, common: Path) -> None:
    """Delete worktrees that a job made, if they are below *root*. Others are left to people."""
    for path in paths:
        if ".." not in path.parts and path.is_relative_to(root) and not is_worktree_folder(path):
            _delete(path, common, root)


def place_of(record: Path) -> Path | None:
    """Return the path of the worktree with this record, as git has recorded it."""
    try:
        return Path(untrusted_files.read(record / "gitdir").decode().rstrip("\n")).parent
    except (OSError, ValueError):
        return None


def _delete(path: Path, common: Path, root: Path) -> None:
    records = _records_below(path, common) if common.is_absolute() else []
    for place in (path, path.with_name(path.name + ASIDE)):
        untrusted_files.delete_tree(place)
    if records:
        with records_lock(root, common, Control(scratch=path.parent)):
            for record in records:
                with contextlib.suppress(OSError):
                    untrusted_files.delete_tree(record)
            with contextlib.suppress(OSError), untrusted_files.parent_of(common / "worktrees") as (folder, name):
                os.rmdir(name, dir_fd=folder)


def _records_below(path: Path, common: Path) -> list[Path]:
    """Return the records of the worktree *path* and of those that a job made inside it."""
    places = {record: place_of(record) for record in _records(common)}
    return [record for record, place in places.items() if place is not None and place.is_relative_to(path)]


def _records(common: Path) -> list[Path]:
    """Return the directories of possible worktree records. Jobs can write there."""
    return [common / "worktrees" / name for name in untrusted_files.names_of_folders(common / "worktrees")]


@contextlib.contextmanager
def _try_lock(note: Path) -> Iterator[int | None]:
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
        note = json.loads(os.pread(fd, 1 << 16, 0))
    except ValueError:
        return {}  # its writer was killed
    return note if isinstance(note, dict) else {}


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in *folder*; none when it cannot be read."""
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []


def _folders(root: Path) -> list[Path]:
    return [path for name in names_in(root) if (path := root / name).is_dir() and not path.is_symlink()]


def _notes_in(run: Path) -> list[Path]:
    return [run / name for name in names_in(run) if name.endswith(_NOTE)]


def _all_notes(root: Path) -> Iterator[Path]:
    return (note_path for run in _folders(root) for note_path in _notes_in(run))


def _drop_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
