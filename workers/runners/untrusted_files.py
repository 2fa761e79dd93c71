"""Functions for files in directories that jobs can write. They follow no links.

Paths must be absolute and real. Only regular files are read, because pipes and devices may block.
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
"""The default limit of ``read`` in bytes, for files that git keeps small."""

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 50  # levels; a deeper directory is moved up before it is deleted, because each level needs a descriptor


@contextlib.contextmanager
def parent_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the parent directory of *path*, and the name. Raises OSError for a link in the path."""
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
    """Read at most *most* bytes of a regular file. Raises OSError."""
    with open_regular(path) as file:
        return file.read(most)


def read_with_mode(path: Path, *, most: int = MOST) -> tuple[bytes, int]:
    """Read at most *most* bytes of a regular file and its permission bits. Raises OSError."""
    with open_regular(path) as file:
        return file.read(most), stat.S_IMODE(os.fstat(file.fileno()).st_mode)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading. Raises OSError."""
    with parent_of(path) as (folder, name):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield file


def copy(source: str, target: str) -> None:
    """Copy a regular file to a new path, with mode and times, also for ``shutil.copytree``. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open_regular(Path(source)) as file:
        status, disk = os.fstat(file.fileno()), os.statvfs(Path(target).parent)
        if status.st_size > disk.f_bavail * disk.f_frsize:  # a sparse file could fill any disk
            raise OSError(errno.EFBIG, "it is larger than what is free on the disk", source)
        with os.fdopen(os.open(target, flags, 0o600), "wb") as new:
            shutil.copyfileobj(file, new)
            new.flush()
            os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
            os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def size(path: Path) -> int:
    """Return the size of a regular file, or 0 when there is none."""
    try:
        with parent_of(path) as (folder, name):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def write_new(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace whatever has that name by a new regular file. *mode*: if not 0644."""
    with parent_of(path) as (folder, name):
        draft = f"{name}.{secrets.token_hex(4)}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(fd, mode)
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)


def make_folder(path: Path) -> None:
    """Create a directory, if nothing has that name."""
    with contextlib.suppress(FileExistsError), parent_of(path) as (folder, name):
        os.mkdir(name, dir_fd=folder)


def unlink(path: Path) -> None:
    """Delete a file or a link itself, if it exists."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), parent_of(path) as (folder, name):
        os.unlink(name, dir_fd=folder)


def names_of_folders(path: Path) -> list[str]:
    """Return the names of the directories in a directory, without links; none when it cannot be read."""
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
    """Yield each directory with the names of its directories and other entries, as ``os.walk`` without following links.

    The caller may remove names of directories. Before Python 3.12, ``os.walk`` raises for deeply nested directories.
    """
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        names: list[str] = []
        others: list[str] = []
        links = set()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # deleted, unreadable, or a path too long
            for entry in entries:
                (names if entry.is_dir() else others).append(entry.name)
                if entry.is_symlink():
                    links.add(entry.name)
        yield folder, names, others
        waiting.extend(os.path.join(folder, name) for name in reversed(names) if name not in links)  # noqa: PTH118 - texts


def delete_tree(path: Path) -> None:
    """Delete a file, a link or a directory with its contents, if it exists and as far as this user may.

    Directories that a job made read-only, as some package caches do, are made writable first.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), parent_of(path) as (folder, name):
        deep = [name]
        while deep:
            _remove(folder, deep.pop(), folder, deep, 0)


def delete_quietly(path: str | None) -> None:
    """Delete a path that a job could write, as far as this user may, and ignore errors. None: do nothing.

    ``shutil.rmtree`` raises for deeply nested directories and keeps a descriptor open for each level.
    """
    if path is not None:
        place = Path(path)
        with contextlib.suppress(OSError):
            delete_tree(place.parent.resolve() / place.name)


def _remove(parent: int, name: str, top: int, deep: list[str], level: int) -> None:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    if level == _DEEPEST:
        moved = f".{secrets.token_hex(8)}"
        os.rename(name, moved, src_dir_fd=parent, dst_dir_fd=top)
        deep.append(moved)
        return
    fd = _open_folder(parent, name)
    try:
        with os.scandir(fd) as entries:
            below = [entry.name for entry in entries]
        for child in below:
            _remove(fd, child, top, deep, level + 1)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _open_folder(parent: int, name: str) -> int:
    """Open a directory and make it writable."""
    handle = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
    try:
        if os.fstat(handle).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):
                os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)  # noqa: PTH101 - the open directory, even if renamed
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)
