"""A fair lock per branch, for the threads and processes that share COORD_WORKTREES.

It is a file lock, which the kernel releases when its process ends. Tickets define the order: a ticket is locked while
its owner waits, so an unlocked ticket belongs to a dead process. Only the lock excludes; tickets are for fairness. Both
are below COORD_WORKTREES, where no job in a sandbox may write, never in the repository. Workers elsewhere that share
the repository do not see them; git's atomic branch update protects against those.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from coordination.base.clock import monotonic
from workers.runners.base import Control
from workers.runners.program import Interruption
from workers.workspaces.git import GitFailed, GitInterrupted

LOCKS = ".locks"
"""The directory below COORD_WORKTREES that contains the queues, by repository."""

_RECORDS = "worktrees"
_RECORDS_PATIENCE = timedelta(minutes=2)
_LOCK = "lock"
_AFTER_ALL = "~"  # sorts behind every ticket
_BEFORE_ALL = "!"  # sorts before every digit
_DIGITS = 20
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PAUSE = 0.005  # seconds, times the place in the queue
_LONGEST_PAUSE = 0.25


@contextlib.contextmanager
def hold_lock(folder: Path, control: Control, *, limit: timedelta, first: bool = False) -> Iterator[None]:
    """Hold the lock of *folder*, which is created and deleted again, during the block.

    *first*: ahead of all others except earlier ones with *first*.

    Raises GitInterrupted when the attempt is requested to stop, GitFailed (transient) when *limit* has passed.
    """
    ticket, own = _ticket(folder, first=first)
    lock = -1
    try:
        deadline = monotonic() + limit.total_seconds()
        while (lock := _lock(folder) if (before := _before(folder, own)) == 0 else -1) < 0:
            if monotonic() >= deadline:
                raise GitFailed("others were merging for too long", transient=True)
            if (reason := control.wait(timedelta(seconds=min(_PAUSE * (before + 1), _LONGEST_PAUSE)))) is not None:
                raise GitInterrupted(Interruption(reason.outcome, f"{reason} while it waited for its turn to merge"))
            control.progress()
        yield
    finally:
        _drop(folder / own, ticket)
        if lock >= 0:
            _drop(folder / _LOCK, lock)
        with contextlib.suppress(OSError):
            for place in (folder, folder.parent, folder.parent.parent):
                place.rmdir()


def queue_folder(root: Path, common: Path, name: str) -> Path:
    """Return the directory below *root*, that of all worktrees, of the lock *name* in the repository *common*."""
    return _queues_of(root, common) / name


def _queues_of(root: Path, common: Path) -> Path:
    where = hashlib.sha256(os.fsencode(os.path.realpath(common))).hexdigest()
    return root / LOCKS / where[:_DIGITS]


def records_lock(root: Path, common: Path, control: Control) -> contextlib.AbstractContextManager[None]:
    """Return the lock for creating or deleting worktree records, because git fails on incomplete records."""
    return hold_lock(queue_folder(root, common, _RECORDS), control, limit=_RECORDS_PATIENCE)


def delete_stale(root: Path, common: Path) -> None:
    """Delete what dead processes left in the queues of a repository."""
    queues = _queues_of(root, common)
    with contextlib.suppress(OSError):
        for folder in [Path(entry.path) for entry in os.scandir(queues) if entry.is_dir(follow_symlinks=False)]:
            _before(folder, own=_AFTER_ALL)
            if (lock := _lock(folder)) >= 0:
                _drop(folder / _LOCK, lock)
            with contextlib.suppress(OSError):
                folder.rmdir()
        queues.rmdir()
        queues.parent.rmdir()


def _ticket(folder: Path, *, first: bool = False) -> tuple[int, str]:
    name = f"{time.time_ns():0{_DIGITS}d}-{uuid4().hex}"
    if first:
        name = f"{_BEFORE_ALL}{name}"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder / name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue  # the last owner has just deleted the directory
        # A process that sees it before it is locked considers it dead and deletes it.
        if _holds(folder / name, fd):
            return fd, name
        os.close(fd)


def _before(folder: Path, own: str) -> int:
    """Count the older tickets. Deletes those of dead processes."""
    try:
        older = [entry.name for entry in os.scandir(folder) if entry.name != _LOCK and entry.name < own]
    except OSError:
        return 0
    return sum(not _is_dead(folder / name) for name in older)


def _is_dead(ticket: Path) -> bool:
    try:
        fd = os.open(ticket, _FLAGS)
    except OSError:
        return True
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return True  # not a ticket; it stays
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        with contextlib.suppress(OSError):
            ticket.unlink()
        return True
    finally:
        os.close(fd)


def _lock(folder: Path) -> int:
    """Return the descriptor of the lock, or -1 if another process holds it."""
    path = folder / _LOCK
    try:
        fd = os.open(path, _FLAGS | os.O_CREAT, 0o600)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
        return -1
    if _holds(path, fd):
        return fd
    os.close(fd)
    return -1


def _holds(path: Path, fd: int) -> bool:
    """Lock *fd*, which was opened at *path*. Return whether that succeeded and *path* is still that file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Owners delete the file on release: a lock on a deleted file excludes nobody.
        return os.fstat(fd).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _drop(path: Path, fd: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(fd)
