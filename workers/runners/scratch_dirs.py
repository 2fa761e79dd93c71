"""Folders of one process's own: locked for as long as it lives, and taken away when it ends, or after it.

The lock is the kernel's and goes with the process, however that ends: who can lock such a folder knows that nobody
lives there any more. Its name says on which machine it was made, because on some file systems that machines share a
lock is seen by one of them only. Where folders cannot be locked at all, nothing is ever taken for left behind.
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
"""For what needs a short path: a socket's name has at most 107 bytes."""

IN_TEMPORARY = "coord-worker-"
"""How a folder's name begins there."""

IN_HOME = "w-"

_MARK = 4  # hexadecimal digits of each half


class ScratchDir:
    """One of them. ``path`` is there until its process closes it; copies of the process made by fork() cannot."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._owner = os.getpid()

    def close(self) -> None:
        """Take it away, with all that is in it; may be repeated."""
        if self._fd >= 0 and self._owner == os.getpid():
            fd, self._fd = self._fd, -1
            untrusted_files.take_away(self.path)
            os.close(fd)


def take(root: Path, prefix: str) -> ScratchDir:
    """A new empty folder in *root*, for this user alone. Raises Refused where none can be made."""
    try:
        while True:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = root / f"{prefix}{''.join(_marks())}-{secrets.token_hex(4)}"
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                path.mkdir(mode=0o700)
                fd = _open(path)
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_SH)  # who clears up may be here at this moment: then it is gone now
                if _is_at(path, fd):
                    return ScratchDir(path, fd)
                os.close(fd)
    except OSError as error:
        raise Refused(
            f"No folder can be made in {root}: {error.strerror}", hint="A worker has to be able to write there"
        ) from None


def clear(root: Path, prefix: str, *, spare: Callable[[Path], bool] = lambda _: False) -> int:
    """Take away what processes that are gone had in *root*; how many folders that were.

    *spare*: asked of each when nobody lives there any more, whether it has to stay.
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
    except OSError:  # gone, somebody else's, or no folder
        return False
    try:
        if os.fstat(fd).st_uid != os.getuid():
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, fd) and not spare(path):
            untrusted_files.take_away(path)
        return not path.exists()
    except OSError:
        return False
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_at(path: Path, fd: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


def _marks() -> tuple[str, str]:
    """What this machine is called, and which kernel runs on it since when, each in short."""
    kernel = boot_id().partition("/")[0]
    machine, running = (hashlib.sha256(os.fsencode(text)).hexdigest()[:_MARK] for text in (host(), kernel))
    return machine, running


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
