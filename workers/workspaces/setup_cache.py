"""Keeps what setup commands made, one folder per digest of command and lock files, for the worktrees that follow.

A lock file lies beside each folder. Who builds the folder holds it exclusively; each worktree that links into the
folder holds it shared for as long as its attempt lives. Locks go with their process, and a folder gets its name only
when it is complete, so that a killed setup leaves nothing that counts.
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

from workers.runners import untrusted_files as files_of_jobs
from workers.runners.base import Control
from workers.runners.process_watch import Interruption
from workers.runners.untrusted_files import take_away
from workers.workspaces.git import GitInterrupted

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
"""Copies files and folders, with all their attributes, into an existing folder."""


@dataclass(frozen=True, slots=True)
class SetupKey:
    """What a folder holds. Paths are relative to the top of a worktree, that of the setup was *made_in*.

    ``entries``: what the command made. ``texts``: files that mention the path of that worktree. ``links``: symbolic
    links that lead to it by that path.
    """

    made_in: str
    entries: list[str]
    texts: list[str]
    links: list[str]


class SetupCache:
    """One folder of the store, locked until ``close``. ``about`` is None until somebody has filled it."""

    def __init__(self, path: Path, fd: int, about: SetupKey | None) -> None:
        self.path = path
        self.about = about
        self._fd = fd

    def fill(self, top: Path, entries: Sequence[str], share: Sequence[str], copy: Copy) -> None:
        """Store *entries* of the worktree *top*; what *share* names becomes read-only there."""
        new = self.path.with_name(self.path.name + _NEW)
        if new.exists():
            take_away(new)
        files = new / _FILES
        files.mkdir(parents=True)
        copy_entries(top, files, entries, copy)
        texts, links = _mentions(files, str(top))
        for name in share:
            _protect(files / name)
        about = SetupKey(str(top), list(entries), texts, links)
        (new / _ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8", errors="surrogateescape")
        new.rename(self.path)
        self.about = about
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def bring_into(self, top: Path, share: Sequence[str], copy: Copy) -> list[str]:
        """Link or copy all of it into the worktree *top*; return the entries that were not there already."""
        assert self.about is not None  # noqa: S101 - the caller has filled it
        files, moved = self.path / _FILES, _Moved(self.about, str(top))
        absent = [name for name in self.about.entries if not os.path.lexists(top / name)]
        linked = [name for name in share if any(is_inside(name, entry) for entry in absent)]
        own = [part for name in absent for part in _outside(files, name, linked)]
        copy_entries(files, top, own, copy)
        for name in own:
            for text in moved.below(moved.texts, name):
                moved.rewrite(top / text)
                for compiled in _compiled(top / text):
                    files_of_jobs.unlink(compiled)
            for link in moved.below(moved.links, name):
                moved.relink(top / link)
        for name in linked:
            make_parents(top, name)
            moved.link(files, top, name)
        return absent

    def touch(self, until: float | None = None) -> None:
        """Note its use: it is kept from now on, or from *until* (seconds since 1970)."""
        with contextlib.suppress(OSError):
            now = time.time()
            os.utime(self._fd, (now, max(until or now, now)))

    def close(self) -> None:
        """Give the lock back; may be repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def take(root: Path, digest: str, control: Control) -> SetupCache:
    """Return the folder of *digest*, filled or to be filled by the caller; waits while somebody else fills it.

    Raises Interrupted when the attempt is told to stop.
    """
    store = root / FOLDER
    path = store / digest
    while True:
        with contextlib.suppress(FileNotFoundError):
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(store / (digest + _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, fd)
                warm = _ready(path, fd) or _to_fill(path, fd)
                if warm is not None:
                    stack.pop_all()
                    warm.touch()
                    return warm
        if (reason := control.wait(_PAUSE)) is not None:
            raise GitInterrupted(
                Interruption(reason.outcome, f"{reason} while it waited for the setup of another task")
            )
        control.progress()


def sweep(root: Path, *, keep: timedelta, now: float | None = None) -> int:
    """Take away the folders that nobody has used for *keep*; return how many."""
    moment = time.time() if now is None else now
    store = root / FOLDER
    swept = 0
    for name in _names(store):
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
                            take_away(place)
                            swept += place == path
                    (store / name).unlink()
            finally:
                os.close(fd)
    with contextlib.suppress(OSError):
        store.rmdir()
    return swept


def is_inside(name: str, other: str) -> bool:
    """Whether the path *name* is *other* or lies below it."""
    return PurePosixPath(name).is_relative_to(other)


def make_parents(top: Path, name: str) -> None:
    """Make the folders above *name* in *top*; NotADirectoryError where one of them is a link or a file."""
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


def _ready(path: Path, fd: int) -> SetupCache | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return SetupCache(path, fd, about) if _is_current(path, fd) and (about := _about(path)) is not None else None


def _to_fill(path: Path, fd: int) -> SetupCache | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    if not _is_current(path, fd) or _about(path) is not None:
        return None  # swept, or filled by somebody else: look again
    if path.exists():
        take_away(path)
    return SetupCache(path, fd, None)


def _is_current(path: Path, fd: int) -> bool:
    """Whether the lock file has its name still: a sweep takes it away."""
    try:
        return os.fstat(fd).st_ino == path.with_name(path.name + _LOCK).stat().st_ino
    except FileNotFoundError:
        return False


def _about(path: Path) -> SetupKey | None:
    try:
        return SetupKey(**json.loads((path / _ABOUT).read_text(encoding="utf-8", errors="surrogateescape")))
    except (OSError, ValueError, TypeError):
        return None


def _mentions(files: Path, made_in: str) -> tuple[list[str], list[str]]:
    """Texts and links below *files* that hold the path *made_in*."""
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
    """Take the right to write from all folders of *path*: files may be replaced in none of them."""
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


def _compiled(module: Path) -> list[Path]:
    """What Python has compiled of a module."""
    if module.suffix != ".py":
        return []
    return [
        module.parent / _COMPILED / name
        for name in _names(module.parent / _COMPILED)
        if name.startswith(f"{module.stem}.")
    ]


def _outside(files: Path, name: str, linked: Sequence[str]) -> Iterator[str]:
    """The parts of *name* that are not *linked*, each as high up as possible."""
    if any(is_inside(name, link) for link in linked):
        return
    if not any(is_inside(link, name) for link in linked):
        yield name
        return
    for child in _names(files / name):
        yield from _outside(files, f"{name}/{child}", linked)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []


class _Moved:
    """Lets files that mention the worktree in which they were made mention the worktree *top* instead."""

    def __init__(self, about: SetupKey, top: str) -> None:
        self.texts = about.texts
        self.links = about.links
        self._special = {
            str(place) for name in (*about.texts, *about.links) for place in (name, *PurePosixPath(name).parents)
        }
        self._made_in = about.made_in
        self._pattern = re.compile(re.escape(os.fsencode(about.made_in)) + rb"(?![\w.-])")
        self._top = os.fsencode(top)

    def below(self, names: Sequence[str], entry: str) -> list[str]:
        return [name for name in names if is_inside(name, entry)]

    def rewrite(self, path: Path, source: Path | None = None) -> None:
        """Write *path* anew, from *source* or from what it is."""
        data, mode = files_of_jobs.read_with_mode(source or path)  # what setup commands made, links beside it too
        files_of_jobs.write_new(path, self._pattern.sub(lambda _: self._top, data), mode=mode)

    def relink(self, path: Path, source: Path | None = None) -> None:
        target = str((source or path).readlink())
        if is_inside(target, self._made_in):
            target = os.fsdecode(self._top) + target[len(self._made_in) :]
        if source is None:
            path.unlink()
        path.symlink_to(target)

    def link(self, files: Path, top: Path, name: str) -> None:
        """Link *name* in *top* to the store. A folder is made, and what is in it linked: only the folder is own."""
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
        """Whether a file of ``__pycache__`` is the compiled form of a module that is written anew.

        Python takes it for current when size and second of its source fit, which they may in two worktrees.
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
