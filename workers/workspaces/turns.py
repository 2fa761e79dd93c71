"""One after the other: who may merge to a branch now, across threads, processes and the hosts that share a repository.

The lock is the file system's, so it goes with the process that holds it. Tickets say who came first: a ticket is locked
while somebody waits with it, and one that is not is a dead one's. They are only manners; what excludes is the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from coordination.clock import monotonic
from workers.runners.base import Control
from workers.runners.watch import Interruption
from workers.workspaces.git import GitFailed, Interrupted

OURS = "coordination"
"""The folder in a repository that is ours."""

_QUEUES = "queue"
_RECORDS = "worktrees"
_RECORDS_PATIENCE = timedelta(minutes=2)
_LOCK = "lock"
_AFTER_ALL = "~"  # sorts behind every ticket
_PAUSE = 0.005  # seconds, times the place in the queue
_LONGEST_PAUSE = 0.25


@contextlib.contextmanager
def turn(folder: Path, control: Control, *, limit: timedelta) -> Iterator[None]:
    """Wait for the turn in *folder*, which is made and taken away again, and have it for the block.

    Raises Interrupted when the attempt is told to stop, GitFailed (transient) when it takes longer than *limit*.
    """
    ticket, own = _ticket(folder)
    lock = -1
    try:
        deadline = monotonic() + limit.total_seconds()
        while (lock := _lock(folder) if (before := _before(folder, own)) == 0 else -1) < 0:
            if monotonic() >= deadline:
                raise GitFailed("others were merging for too long", transient=True)
            if (reason := control.wait(timedelta(seconds=min(_PAUSE * (before + 1), _LONGEST_PAUSE)))) is not None:
                raise Interrupted(Interruption(reason.outcome, f"{reason} while it waited for its turn to merge"))
            control.progress()
        yield
    finally:
        _drop(folder / own, ticket)
        if lock >= 0:
            _drop(folder / _LOCK, lock)
        with contextlib.suppress(OSError):
            for place in (folder, folder.parent, folder.parent.parent):
                place.rmdir()


def queue_of(common: Path, name: str) -> Path:
    """The folder for turns called *name* in a repository."""
    return common / OURS / _QUEUES / name


def records_turn(common: Path, control: Control) -> contextlib.AbstractContextManager[None]:
    """The turn to make or take away a worktree's record: a git that meets half a record fails."""
    return turn(queue_of(common, _RECORDS), control, limit=_RECORDS_PATIENCE)


def tidy(common: Path) -> None:
    """Take away what the dead left in the queues of a repository; whoever comes next would, if anybody came."""
    queues = common / OURS / _QUEUES
    with contextlib.suppress(OSError):
        for folder in [Path(entry.path) for entry in os.scandir(queues)]:
            _before(folder, own=_AFTER_ALL)
            if (lock := _lock(folder)) >= 0:
                _drop(folder / _LOCK, lock)
            with contextlib.suppress(OSError):
                folder.rmdir()
        queues.rmdir()


def _ticket(folder: Path) -> tuple[int, str]:
    name = f"{time.time_ns():020d}-{uuid4().hex}"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # somebody was the last to leave
        # Who looks at it before it is locked takes it for a dead one's and tears it up.
        if _holds(folder / name, fd):
            return fd, name
        os.close(fd)


def _before(folder: Path, own: str) -> int:
    """How many wait with older tickets; those of the dead are torn up."""
    try:
        older = [entry.name for entry in os.scandir(folder) if entry.name != _LOCK and entry.name < own]
    except OSError:
        return 0
    return sum(not _is_dead(folder / name) for name in older)


def _is_dead(ticket: Path) -> bool:
    try:
        fd = os.open(ticket, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
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
    """The lock's descriptor, or -1: somebody has it."""
    path = folder / _LOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
        return -1
    if _holds(path, fd):
        return fd
    os.close(fd)
    return -1


def _holds(path: Path, fd: int) -> bool:
    """Whether *fd*, opened by *path*, is locked now and is still what has that name."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever leaves takes the file away: a lock on a file without a name excludes nobody.
        return os.fstat(fd).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _drop(path: Path, fd: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(fd)
