"""What git cannot merge by itself: which conflicts a merge has, of what kind, and which of them nobody has resolved.

Only conflicts in the lines of a text leave markers. All others (binary files, a file changed here and deleted there,
two names for one file, types, submodules) leave one side in the folder, and their entries in the index unmerged. Such a
conflict counts as resolved when somebody has decided: its entry was merged (``git add``, ``git rm``), or its file is
no longer what the merge left there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.runners import untrusted_files
from workers.workspaces.git import LONG, Git

MARKER = re.compile(rb"^(<{7,} |>{7,} )", re.MULTILINE)

_KIND = re.compile(r"CONFLICT \(([^)]+)\)")
_LINES = frozenset({"content", "contents"})  # the kind of which no word needs to be said
_ENTRY_FIELDS = 3  # of an unmerged entry, before its path: mode, object, stage
_SIDES = frozenset({"2", "3"})
_BASE = "1"
_LARGEST = 256 << 20  # bytes of a file that is searched for markers
_AT_ONCE = 500  # paths in one command
_SUBMODULE, _LINK = "160000", "120000"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One side of an unmerged path: *stage* 1 is the common beginning, 2 what is checked out, 3 what is merged."""

    mode: str
    oid: str
    stage: str
    path: str


@dataclass(frozen=True, slots=True)
class MergeConflict:
    """One conflict: its paths (several for renames), its *kind* in git's words, and what git says of it."""

    paths: tuple[str, ...]
    kind: str = "content"
    said: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.paths[0] if self.kind in _LINES else f"{self.paths[0]} ({self.kind})"


@dataclass(frozen=True, slots=True)
class TrialMerge:
    """A merge in nobody's folder. *tree*: what it leaves there. *clean*: nothing is in conflict."""

    tree: str
    clean: bool
    entries: tuple[IndexEntry, ...] = ()
    conflicts: tuple[MergeConflict, ...] = ()


def trial(git: Git, ours: str, theirs: str) -> TrialMerge:
    """Merge two commits without touching a folder, an index or a branch."""
    said = git("merge-tree", "--write-tree", "--messages", "-z", ours, theirs, limit=LONG, may_fail=True)
    tree, *words = [os.fsdecode(word) for word in said.out.split(b"\0")]
    if said.code == 0:
        return TrialMerge(tree.strip(), clean=True)
    end = words.index("") if "" in words else len(words)
    entries = tuple(_entry(word) for word in words[:end])
    found = tuple(_grouped(_messages(words[end + 1 :])))
    named = {path for conflict in found for path in conflict.paths}
    silent = dict.fromkeys(entry.path for entry in entries if entry.path not in named)
    more = (MergeConflict((path,), _kind_of([entry for entry in entries if entry.path == path])) for path in silent)
    return TrialMerge(tree.strip(), clean=False, entries=entries, conflicts=(*found, *more))


def _entry(word: str) -> IndexEntry:
    described, _, path = word.partition("\t")
    mode, oid, stage = (*described.split(" "), "", "", "")[:_ENTRY_FIELDS]
    return IndexEntry(mode, oid, stage, path)


def _messages(words: Sequence[str]) -> Iterable[tuple[tuple[str, ...], str, str]]:
    """The messages of a merge: the paths that each is about, its type, its text."""
    place = 0
    while place < len(words) and words[place].isdigit():
        end = place + 1 + int(words[place])
        if end + 1 >= len(words):
            return
        yield tuple(words[place + 1 : end]), words[end], words[end + 1].strip()
        place = end + 2


def _grouped(messages: Iterable[tuple[tuple[str, ...], str, str]]) -> Iterable[MergeConflict]:
    """One conflict for all that is said of the same paths."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    texts: dict[tuple[str, ...], list[str]] = {}
    for paths, type_, text in messages:
        if not paths or not type_.startswith("CONFLICT"):
            continue
        found = _KIND.match(text) or _KIND.match(type_)
        kinds.setdefault(paths, []).append(found[1] if found else type_)
        texts.setdefault(paths, []).append(text)
    for paths, names in kinds.items():
        special = [name for name in dict.fromkeys(names) if name not in _LINES]
        yield MergeConflict(paths, ", ".join(special) or "content", tuple(texts[paths]))


def _kind_of(entries: Sequence[IndexEntry]) -> str:
    modes, stages = {entry.mode for entry in entries}, {entry.stage for entry in entries}
    if _SUBMODULE in modes:
        return "submodule"
    if _LINK in modes:
        return "symbolic link"
    if not stages >= _SIDES:
        return "modify/delete" if _BASE in stages else "in the way"
    return "content" if _BASE in stages else "add/add"


@dataclass(slots=True)
class ConflictResolution:
    """What a folder was given to resolve: these *conflicts*, with these *entries*; *tree*: as the merge left it."""

    tree: str = ""
    conflicts: tuple[MergeConflict, ...] = ()
    entries: tuple[IndexEntry, ...] = ()
    _unmerged: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._unmerged = frozenset(entry.path for entry in self.entries)

    def left(self, git: Git, top: Path, record: Path, unmerged: Sequence[str]) -> list[MergeConflict]:
        """Those that nobody has resolved, and any others that the job has begun. *unmerged*: paths in the index now.

        *git* works in the worktree at *top*; *record* is what the repository keeps of it.
        """
        known = {path for conflict in self.conflicts for path in conflict.paths}
        more = [MergeConflict((path,), "") for path in unmerged if path not in known]
        if not self.conflicts and not more:
            return []
        open_now = set(unmerged)
        tree = _auto_merged(record) or self.tree
        own = _named([*self.conflicts, *more], self._unmerged | open_now)
        changed = _changed(git, top, record, tree, sorted(own & open_now)) if own & open_now and tree else set()
        return [
            conflict if conflict.kind else MergeConflict(conflict.paths)
            for conflict in [*self.conflicts, *more]
            if self._is_left(git, top, conflict, open_now, changed)
        ]

    def _is_left(self, git: Git, top: Path, conflict: MergeConflict, open_now: set[str], changed: set[str]) -> bool:
        if any(self._has_markers(git, top / path, path) for path in conflict.paths):
            return True
        entries = [path for path in conflict.paths if path in self._unmerged or path in open_now]
        return bool(entries) and all(path in open_now and path not in changed for path in entries)

    def _has_markers(self, git: Git, file: Path, path: str) -> bool:
        """Whether a file has conflict markers, more than one of its sides had of its own."""
        if file.is_symlink():
            return False
        try:
            count = len(MARKER.findall(untrusted_files.read(file, most=_LARGEST)))
        except OSError:
            return False  # deleted, or a folder now
        if not count:
            return False
        sides = {entry.oid for entry in self.entries if entry.path == path and entry.stage in _SIDES}
        return not any(len(MARKER.findall(git("cat-file", "blob", oid).out)) >= count for oid in sides)


def _named(conflicts: Iterable[MergeConflict], among: Iterable[str]) -> set[str]:
    return {path for conflict in conflicts for path in conflict.paths}.intersection(among)


def _auto_merged(record: Path) -> str:
    """The tree that the last merge in a worktree left there, as git has noted it until the merge is committed."""
    try:
        return untrusted_files.read(record / "AUTO_MERGE").decode("ascii").strip()
    except (OSError, ValueError):
        return ""


def _changed(git: Git, top: Path, record: Path, tree: str, paths: Sequence[str]) -> set[str]:
    """Those of *paths* that are no longer as they are in *tree*: changed, deleted, or made."""
    index = record / "coordination-index"
    apart = git.at(top, GIT_INDEX_FILE=str(index))
    found: set[str] = set()
    try:
        apart("read-tree", tree, limit=LONG)
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            compare = ("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty")
            found.update(apart(*compare, "--", *some, limit=LONG).words)
            there = set(apart("ls-files", "-z", "--", *some).words)
            found.update(path for path in some if path not in there and os.path.lexists(top / path))
    finally:
        untrusted_files.unlink(index)
        untrusted_files.unlink(index.with_name(f"{index.name}.lock"))
    return found
