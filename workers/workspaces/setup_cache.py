"""A cache of what setup commands create, with one directory per digest of command and lock files.

A lock file lies beside each directory. The process that fills a directory locks it exclusively; a worktree that links
into it locks it shared while its attempt runs. The kernel releases locks when their process ends, and a directory is
renamed to its name only when it is complete, so a killed setup leaves no valid entry.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath

from workers.runners import untrusted_files
from workers.runners.base import Control
from workers.runners.program import Interruption
from workers.workspaces.git import GitInterrupted
from workers.workspaces.worktree_folder import names_in

FOLDER = ".warm"
"""Below the folder of worktrees."""

_FILES = "files"
_ABOUT = "about"
_LOCK = ".lock"
_NEW = ".new"
_PAUSE = timedelta(milliseconds=100)
_LARGEST_TEXT = 1 << 20
_COMPILED = "__pycache__"

Copy = Callable[[Sequence[Path], Path], None]
"""Copies files and directories, with all their attributes, into an existing directory."""


@dataclass(frozen=True, slots=True)
class SetupContents:
    """The contents of a directory of the cache. Paths are relative to a worktree's top; *made_in*: the original one.

    ``entries``: what the command created. ``texts``: files that contain the path of that worktree. ``links``: symbolic
    links with that path.
    """

    made_in: str
    entries: list[str]
    texts: list[str]
    links: list[str]


class SetupCache:
    """One directory of the cache, locked until ``close``. ``about`` is None until it is filled."""

    def __init__(self, path: Path, fd: int, about: SetupContents | None) -> None:
        self.path = path
        self.about = about
        self._fd = fd

    def fill(self, top: Path, entries: Sequence[str], share: Sequence[str], copy: Copy) -> None:
        """Store *entries* of the worktree *top*, those in *share* read-only."""
        new = self.path.with_name(self.path.name + _NEW)
        if new.exists():
            untrusted_files.delete_tree(new)
        files = new / _FILES
        files.mkdir(parents=True)
        copy_entries(top, files, entries, copy)
        texts, links = _mentions(files, str(top))
        for name in share:
            _protect(files / name)
        about = SetupContents(str(top), list(entries), texts, links)
        (new / _ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8", errors="surrogateescape")
        new.rename(self.path)
        self.about = about
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def bring_into(self, top: Path, share: Sequence[str], copy: Copy) -> list[str]:
        """Link or copy all entries into the worktree *top*. Return those that did not exist there."""
        assert self.about is not None  # noqa: S101 - the caller has filled it
        files, relocation = self.path / _FILES, _Relocation(self.about, str(top))
        absent = [name for name in self.about.entries if not os.path.lexists(top / name)]
        linked = [name for name in share if any(is_inside(name, entry) for entry in absent)]
        own = [part for name in absent for part in _outside(files, name, linked)]
        copy_entries(files, top, own, copy)
        for name in own:
            for text in [path for path in self.about.texts if is_inside(path, name)]:
                relocation.rewrite(top / text)
                for compiled in _compiled_files(top / text):
                    untrusted_files.unlink(compiled)
            for link in [path for path in self.about.links if is_inside(path, name)]:
                relocation.relink(top / link)
        for name in linked:
            make_parents(top, name)
            relocation.link(files, top, name)
        return absent

    def touch(self, until: float | None = None) -> None:
        """Record a use: the retention time starts now, or at *until* (seconds since 1970)."""
        with contextlib.suppress(OSError):
            now = time.time()
            os.utime(self._fd, (now, max(until or now, now)))

    def close(self) -> None:
        """Release the lock. May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def acquire(root: Path, digest: str, control: Control) -> SetupCache:
    """Return the directory of *digest*, filled or to be filled by the caller. Waits while another process fills it.

    Raises GitInterrupted when the attempt is requested to stop.
    """
    store = root / FOLDER
    path = store / digest
    while True:
        with contextlib.suppress(FileNotFoundError):
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(store / (digest + _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, fd)
                cache = _open_filled(path, fd) or _open_empty(path, fd)
                if cache is not None:
                    stack.pop_all()
                    cache.touch()
                    return cache
        if (reason := control.wait(_PAUSE)) is not None:
            raise GitInterrupted(
                Interruption(reason.outcome, f"{reason} while it waited for the setup of another task")
            )
        control.progress()


def sweep(root: Path, *, keep: timedelta, now: float | None = None) -> int:
    """Delete directories that were not used for *keep*. Return how many."""
    moment = time.time() if now is None else now
    store = root / FOLDER
    swept = 0
    for name in names_in(store):
        if not name.endswith(_LOCK):
            continue
        with contextlib.suppress(OSError):
            fd = os.open(store / name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_mtime + keep.total_seconds() <= moment:
                    path = store / name.removesuffix(_LOCK)
                    for place in (path, path.with_name(path.name + _NEW)):
                        if place.exists():
                            untrusted_files.delete_tree(place)
                            swept += place == path
                    (store / name).unlink()
            finally:
                os.close(fd)
    with contextlib.suppress(OSError):
        store.rmdir()
    return swept


def is_inside(name: str, other: str) -> bool:
    """Return whether the path *name* is *other* or below it."""
    return PurePosixPath(name).is_relative_to(other)


def make_parents(top: Path, name: str) -> None:
    """Create the parents of *name* in *top*. Raises NotADirectoryError if one of them is a link or a file."""
    place = top
    for part in PurePosixPath(name).parts[:-1]:
        place = place / part
        with contextlib.suppress(FileExistsError):
            place.mkdir()
        if not stat.S_ISDIR(place.lstat().st_mode):
            raise NotADirectoryError(f"{place} is no folder")


def copy_entries(source: Path, target: Path, names: Sequence[str], copy: Copy) -> None:
    """Copy these paths below *source* to the same places below *target*."""
    by_parent: dict[str, list[Path]] = {}
    for name in names:
        by_parent.setdefault(str(PurePosixPath(name).parent), []).append(source / name)
    for parent, places in by_parent.items():
        make_parents(target, f"{parent}/x")
        copy(places, target / parent)


def _open_filled(path: Path, fd: int) -> SetupCache | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return SetupCache(path, fd, about) if _is_current(path, fd) and (about := _about(path)) is not None else None


def _open_empty(path: Path, fd: int) -> SetupCache | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    if not _is_current(path, fd) or _about(path) is not None:
        return None  # swept, or filled by another process: the caller retries
    if path.exists():
        untrusted_files.delete_tree(path)
    return SetupCache(path, fd, None)


def _is_current(path: Path, fd: int) -> bool:
    """Return whether the lock file still exists: a sweep deletes it."""
    try:
        return os.fstat(fd).st_ino == path.with_name(path.name + _LOCK).stat().st_ino
    except FileNotFoundError:
        return False


def _about(path: Path) -> SetupContents | None:
    try:
        return SetupContents(**json.loads((path / _ABOUT).read_text(encoding="utf-8", errors="surrogateescape")))
    except (OSError, ValueError, TypeError):
        return None


def _mentions(files: Path, made_in: str) -> tuple[list[str], list[str]]:
    """Return text files and links below *files* that contain the path *made_in*."""
    path, texts, links = os.fsencode(made_in), [], []
    for place, entry in _walk(files):
        name = str(place.relative_to(files))
        if entry.is_symlink():
            if is_inside(str(place.readlink()), made_in):
                links.append(name)
        elif entry.is_file() and entry.stat(follow_symlinks=False).st_size <= _LARGEST_TEXT:
            data = place.read_bytes()
            if path in data and b"\0" not in data:
                texts.append(name)
    return texts, links


def _protect(path: Path) -> None:
    """Make all directories of *path* read-only, so that files in them cannot be replaced."""
    if path.is_symlink() or not path.is_dir():
        return
    for folder in [*(place for place, entry in _walk(path) if entry.is_dir(follow_symlinks=False)), path]:
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~0o222)


def _walk(folder: Path) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            place = Path(entry.path)
            yield place, entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append(place)


def _compiled_files(module: Path) -> list[Path]:
    """Return the compiled files of a Python module."""
    if module.suffix != ".py":
        return []
    folder = module.parent / _COMPILED
    return [folder / name for name in names_in(folder) if name.startswith(f"{module.stem}.")]


def _outside(files: Path, name: str, linked: Sequence[str]) -> Iterator[str]:
    """Yield the largest parts of *name* that are not *linked*."""
    if any(is_inside(name, link) for link in linked):
        return
    if not any(is_inside(link, name) for link in linked):
        yield name
        return
    for child in names_in(files / name):
        yield from _outside(files, f"{name}/{child}", linked)


class _Relocation:
    """Replaces the path of the original worktree in files and links by that of the worktree *top*."""

    def __init__(self, about: SetupContents, top: str) -> None:
        self._special = {
            str(place) for name in (*about.texts, *about.links) for place in (name, *PurePosixPath(name).parents)
        }
        self._made_in = about.made_in
        self._pattern = re.compile(re.escape(os.fsencode(about.made_in)) + rb"(?![\w.-])")
        self._top = os.fsencode(top)

    def rewrite(self, path: Path, source: Path | None = None) -> None:
        """Rewrite *path* with replaced paths, from *source* or in place."""
        data, mode = untrusted_files.read_with_mode(source or path)  # safe against links that setup commands made
        untrusted_files.write_new(path, self._pattern.sub(lambda _: self._top, data), mode=mode)

    def relink(self, path: Path, source: Path | None = None) -> None:
        target = str((source or path).readlink())
        if is_inside(target, self._made_in):
            target = os.fsdecode(self._top) + target[len(self._made_in) :]
        if source is None:
            path.unlink()
        path.symlink_to(target)

    def link(self, files: Path, top: Path, name: str) -> None:
        """Link *name* in *top* to the cache. For a directory, creates a directory and links its entries."""
        source, target = files / name, top / name
        if not source.is_dir() or source.is_symlink():
            self._link_one(source, target, name)
            return
        target.mkdir()
        for entry in os.scandir(source):
            inner = f"{name}/{entry.name}"
            if source.name == _COMPILED and self._is_of_a_text(name, entry.name):
                continue
            if entry.is_dir(follow_symlinks=False) and (inner in self._special or entry.name == _COMPILED):
                self.link(files, top, inner)
            else:
                self._link_one(source / entry.name, target / entry.name, inner)

    def _is_of_a_text(self, name: str, compiled: str) -> bool:
        """Return whether a file of ``__pycache__`` belongs to a module that is rewritten.

        Python considers it current when size and second of its source match, which may happen in two worktrees.
        """
        module = PurePosixPath(name).parent / f"{compiled.partition('.')[0]}.py"
        return str(module) in self._special

    def _link_one(self, source: Path, target: Path, name: str) -> None:
        if source.is_symlink():
            self.relink(target, source)
        elif name in self._special and source.is_file():
            self.rewrite(target, source)
        else:
            target.symlink_to(source)
