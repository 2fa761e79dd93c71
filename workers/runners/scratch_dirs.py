"""Directories of a process, locked while it runs, and deleted at its end or by a later cleanup.

The kernel releases the lock with the process, however it ends: a directory that can be locked has no process. Its name
contains the machine, because some shared file systems have locks per machine. Where directories cannot be locked at
all, none is considered abandoned.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from coordination.base.errors import Refused
from coordination.base.host import boot_id, host
from workers.runners import untrusted_files

TEMPORARY = Path("/tmp")  # noqa: S108 - the names below it are ours alone
"""For files that need a short path: a socket's name has at most 107 bytes."""

IN_TEMPORARY = "coord-worker-"
"""The prefix of names there."""

IN_HOME = "w-"

_MARK = 4  # hexadecimal digits of each half


class ScratchDir:
    """One directory. ``path`` exists until its process closes it; forked processes cannot."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._owner = os.getpid()

    def close(self) -> None:
        """Delete it with its contents. May be called again."""
        if self._fd >= 0 and self._owner == os.getpid():
            fd, self._fd = self._fd, -1
            untrusted_files.delete_tree(self.path)
            os.close(fd)


def create(root: Path, prefix: str) -> ScratchDir:
    """Create and lock an empty directory in *root*, private to this user. Raises Refused when that fails."""
    try:
        while True:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = root / f"{prefix}{''.join(_marks())}-{secrets.token_hex(4)}"
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                path.mkdir(mode=0o700)
                fd = _open(path)
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_SH)  # a cleanup may have deleted it just now
                if _is_at(path, fd):
                    return ScratchDir(path, fd)
                os.close(fd)
    except OSError as error:
        raise Refused(
            f"No folder can be made in {root}: {error.strerror}", hint="A worker has to be able to write there"
        ) from None


def delete_abandoned(root: Path, prefix: str, *, spare: Callable[[Path], bool] = lambda _: False) -> int:
    """Delete the directories of ended processes in *root*. Return how many.

    *spare*: returns whether an abandoned directory has to stay.
    """
    machine, kernel = _marks()
    cleared = 0
    for name in _names(root):
        mark = name.removeprefix(prefix).partition("-")[0]
        if name.startswith(prefix) and (mark[:_MARK] == machine or mark[_MARK:] == kernel):
            cleared += _clear(root / name, spare)
    return cleared


def _clear(path: Path, spare: Callable[[Path], bool]) -> bool:
    try:
        fd = _open(path)
    except OSError:  # deleted, of another user, or not a directory
        return False
    try:
        if os.fstat(fd).st_uid != os.getuid():
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, fd) and not spare(path):
            untrusted_files.delete_tree(path)
        return not path.exists()
    except OSError:
        return False
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_at(path: Path, fd: int) -> bool:
    try:
        current = path.lstat()
    except FileNotFoundError:
        return False
    locked = os.fstat(fd)
    return (current.st_dev, current.st_ino) == (locked.st_dev, locked.st_ino)


def _marks() -> tuple[str, str]:
    """Return short hashes of this machine's name and of its boot."""
    kernel = boot_id().partition("/")[0]
    machine, running = (hashlib.sha256(os.fsencode(text)).hexdigest()[:_MARK] for text in (host(), kernel))
    return machine, running


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
