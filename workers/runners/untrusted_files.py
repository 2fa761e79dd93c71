"""Files in folders that jobs can write, handled without being led elsewhere: no link on the way is followed.

Paths are absolute and real when they come in. What is no regular file (a pipe, a device) is never opened for reading by
these: it could block for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

MOST = 1 << 20
"""Bytes of a file that git keeps small."""

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 50  # levels below which a folder is moved up first: each level costs a descriptor


@contextlib.contextmanager
def parent_of(path: Path) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that *path* is in, and its name there. OSError when a link is on the way."""
    folder = os.open("/", os.O_PATH | _FOLDER)
    try:
        for part in path.parent.parts[1:]:
            if part == "..":
                raise OSError(errno.EINVAL, "the path leads upwards", str(path))
            below = os.open(part, os.O_PATH | _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder, path.name
    finally:
        os.close(folder)


def read(path: Path, *, most: int = MOST) -> bytes:
    """The bytes of a regular file, *most* of them at most. OSError when it is none, or cannot be read."""
    with opened(path) as file:
        return file.read(most)


def read_with_mode(path: Path, *, most: int = MOST) -> tuple[bytes, int]:
    """The same, and who may read, write and execute it."""
    with opened(path) as file:
        return file.read(most), stat.S_IMODE(os.fstat(file.fileno()).st_mode)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file, opened for reading. OSError when it is none, or cannot be read."""
    with parent_of(path) as (folder, name):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file


def copy(source: str, target: str) -> None:
    """Copy a regular file to where nothing is, with its mode and times, for ``shutil.copytree`` too. OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with opened(Path(source)) as file:
        found, disk = os.fstat(file.fileno()), os.statvfs(Path(target).parent)
        if found.st_size > disk.f_bavail * disk.f_frsize:  # one with holes fills any disk
            raise OSError(errno.EFBIG, "it is larger than what is free on the disk", source)
        with os.fdopen(os.open(target, flags, 0o600), "wb") as new:
            shutil.copyfileobj(file, new)
            new.flush()
            os.fchmod(new.fileno(), stat.S_IMODE(found.st_mode))
            os.utime(new.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))


def size(path: Path) -> int:
    """The size of a regular file; 0 when there is none."""
    try:
        with parent_of(path) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def write_new(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Put a new regular file in the place of whatever has that name. *mode*: if not the usual one."""
    with parent_of(path) as (folder, name):
        draft = f"{name}.{secrets.token_hex(4)}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(fd, mode)
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)


def make_folder(path: Path) -> None:
    """Make a folder, if nothing has that name."""
    with contextlib.suppress(FileExistsError), parent_of(path) as (folder, name):
        os.mkdir(name, dir_fd=folder)


def unlink(path: Path) -> None:
    """Take away a file or a link, never what that leads to; nothing where there is none, or a link is on the way."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), parent_of(path) as (folder, name):
        os.unlink(name, dir_fd=folder)


def names_of_folders(path: Path) -> list[str]:
    """The names of the folders in a folder, links to such left out; none when it cannot be read."""
    try:
        with parent_of(path) as (folder, name):
            fd = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=folder)
    except OSError:
        return []
    try:
        with os.scandir(fd) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    finally:
        os.close(fd)


def walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder with the names of its folders and of the rest, as ``os.walk`` has them, links not followed.

    The caller may take names of folders away. Before Python 3.12 ``os.walk`` raises where folders nest deeply.
    """
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        names: list[str] = []
        others: list[str] = []
        links = set()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # gone, not to be read, or a path too long
            for entry in entries:
                (names if entry.is_dir() else others).append(entry.name)
                if entry.is_symlink():
                    links.add(entry.name)
        yield folder, names, others
        waiting.extend(os.path.join(folder, name) for name in reversed(names) if name not in links)  # noqa: PTH118 - texts


def take_away(path: Path) -> None:
    """Take away a file, a link or a folder with all that is in it, as far as this user may; nothing if it is gone.

    Folders that a job made read-only, as some package caches do, are made writable first.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), parent_of(path) as (folder, name):
        deep = [name]
        while deep:
            _remove(folder, deep.pop(), folder, deep, 0)


def clear(path: str | None) -> None:
    """Take away what a job could write to, as far as this user may; folders in folders without end, too. None: nothing.

    ``shutil.rmtree`` raises for these, and keeps a descriptor open for each.
    """
    if path is not None:
        place = Path(path)
        with contextlib.suppress(OSError):
            take_away(place.parent.resolve() / place.name)


def _remove(parent: int, name: str, top: int, deep: list[str], level: int) -> None:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    if level == _DEEPEST:
        apart = f".{secrets.token_hex(8)}"
        os.rename(name, apart, src_dir_fd=parent, dst_dir_fd=top)
        deep.append(apart)
        return
    fd = _open_folder(parent, name)
    try:
        with os.scandir(fd) as entries:
            below = [entry.name for entry in entries]
        for one in below:
            _remove(fd, one, top, deep, level + 1)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _open_folder(parent: int, name: str) -> int:
    """The folder, open and writable."""
    handle = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
    try:
        if os.fstat(handle).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):
                os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)  # noqa: PTH101 - of what is open, whatever its name is now
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)
