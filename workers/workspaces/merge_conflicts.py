"""Merge conflicts: which a merge has, of what kind, and which of them are unresolved.

Only conflicts between lines of text leave markers. All others (binary files, modify/delete, rename/rename, types,
submodules) leave one side in the directory and unmerged entries in the index. Such a conflict counts as resolved when
its entry was merged (``git add``, ``git rm``) or its file differs from what the merge left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.runners import untrusted_files
from workers.workspaces.git import LONG, Git, ids_in

MARKER = re.compile(rb"^(<{7,} |>{7,} )", re.MULTILINE)

_KIND = re.compile(r"CONFLICT \(([^)]+)\)")
_LINES = frozenset({"content", "contents"})  # kinds that are not worth mentioning
_ENTRY_FIELDS = 3  # of an unmerged entry, before its path: mode, object, stage
_SIDES = frozenset({"2", "3"})
_BASE = "1"
_LARGEST = 256 << 20  # bytes of a file that is searched for markers
_AT_ONCE = 500  # paths in one command
_SUBMODULE, _LINK = "160000", "120000"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One side of an unmerged path: *stage* 1 is the merge base, 2 the checked out commit, 3 the merged one."""

    mode: str
    oid: str
    stage: str
    path: str


@dataclass(frozen=True, slots=True)
class MergeConflict:
    """One conflict: its paths (several for renames), its *kind* as git calls it, and git's messages."""

    paths: tuple[str, ...]
    kind: str = "content"
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.paths[0] if self.kind in _LINES else f"{self.paths[0]} ({self.kind})"


@dataclass(frozen=True, slots=True)
class TrialMerge:
    """The result of a merge without a worktree. *tree*: as the merge would leave it. *clean*: without conflicts."""

    tree: str
    clean: bool
    entries: tuple[IndexEntry, ...] = ()
    conflicts: tuple[MergeConflict, ...] = ()


def trial(git: Git, ours: str, theirs: str) -> TrialMerge:
    """Merge two commits without changing a directory, an index or a branch."""
    output = git("merge-tree", "--write-tree", "--messages", "-z", ours, theirs, limit=LONG, may_fail=True)
    tree, *words = [os.fsdecode(word) for word in output.out.split(b"\0")]
    if output.code == 0:
        return TrialMerge(tree.strip(), clean=True)
    end = words.index("") if "" in words else len(words)
    entries = tuple(_entry(word) for word in words[:end])
    conflicts = tuple(_group(_messages(words[end + 1 :])))
    named = {path for conflict in conflicts for path in conflict.paths}
    unnamed = dict.fromkeys(entry.path for entry in entries if entry.path not in named)
    more = (MergeConflict((path,), _kind_of([entry for entry in entries if entry.path == path])) for path in unnamed)
    return TrialMerge(tree.strip(), clean=False, entries=entries, conflicts=(*conflicts, *more))


def _entry(word: str) -> IndexEntry:
    described, _, path = word.partition("\t")
    mode, oid, stage = (*described.split(" "), "", "", "")[:_ENTRY_FIELDS]
    return IndexEntry(mode, oid, stage, path)


def _messages(words: Sequence[str]) -> Iterable[tuple[tuple[str, ...], str, str]]:
    """Yield the messages of a merge as (paths, type, text)."""
    place = 0
    while place < len(words) and words[place].isdigit():
        end = place + 1 + int(words[place])
        if end + 1 >= len(words):
            return
        yield tuple(words[place + 1 : end]), words[end], words[end + 1].strip()
        place = end + 2


def _group(messages: Iterable[tuple[tuple[str, ...], str, str]]) -> Iterable[MergeConflict]:
    """Yield one conflict for all messages about the same paths."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    texts: dict[tuple[str, ...], list[str]] = {}
    for paths, type_, text in messages:
        if not paths or not type_.startswith("CONFLICT"):
            continue
        match = _KIND.match(text) or _KIND.match(type_)
        kinds.setdefault(paths, []).append(match[1] if match else type_)
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
    """The *conflicts* that a job has to resolve in its worktree, with their *entries*. *tree*: as the merge left it."""

    tree: str = ""
    conflicts: tuple[MergeConflict, ...] = ()
    entries: tuple[IndexEntry, ...] = ()
    _unmerged: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._unmerged = frozenset(entry.path for entry in self.entries)

    def unresolved(self, git: Git, top: Path, record: Path, unmerged: Sequence[str]) -> list[MergeConflict]:
        """Return the unresolved conflicts, including those of a merge by the job. *unmerged*: paths in the index.

        *git* works in the worktree at *top*; *record* is its directory in the repository.
        """
        expected = {path for conflict in self.conflicts for path in conflict.paths}
        more = [MergeConflict((path,), "") for path in unmerged if path not in expected]
        if not self.conflicts and not more:
            return []
        open_now = set(unmerged)
        tree = next(iter(ids_in(record / "AUTO_MERGE")), self.tree)  # that of the merge in progress
        own = _paths_of([*self.conflicts, *more], self._unmerged | open_now)
        changed = _find_changed(git, top, record, tree, sorted(own & open_now)) if own & open_now and tree else set()
        return [
            conflict if conflict.kind else MergeConflict(conflict.paths)
            for conflict in [*self.conflicts, *more]
            if self._is_unresolved(git, top, conflict, open_now, changed)
        ]

    def _is_unresolved(
        self, git: Git, top: Path, conflict: MergeConflict, open_now: set[str], changed: set[str]
    ) -> bool:
        if any(self._has_markers(git, top / path, path) for path in conflict.paths):
            return True
        entries = [path for path in conflict.paths if path in self._unmerged or path in open_now]
        return bool(entries) and all(path in open_now and path not in changed for path in entries)

    def _has_markers(self, git: Git, file: Path, path: str) -> bool:
        """Return whether a file has more conflict markers than either of its sides."""
        if file.is_symlink():
            return False
        try:
            count = len(MARKER.findall(untrusted_files.read(file, most=_LARGEST)))
        except OSError:
            return False  # deleted, or a directory now
        if not count:
            return False
        sides = {entry.oid for entry in self.entries if entry.path == path and entry.stage in _SIDES}
        return not any(len(MARKER.findall(git("cat-file", "blob", oid).out)) >= count for oid in sides)


def _paths_of(conflicts: Iterable[MergeConflict], among: Iterable[str]) -> set[str]:
    return {path for conflict in conflicts for path in conflict.paths}.intersection(among)


def _find_changed(git: Git, top: Path, record: Path, tree: str, paths: Sequence[str]) -> set[str]:
    """Return those of *paths* that differ from *tree*: changed, deleted or created."""
    differing: set[str] = set()
    with git.with_own_index(top, record) as scratch_git:
        scratch_git("read-tree", tree, limit=LONG)
        for start in range(0, len(paths), _AT_ONCE):
            page = paths[start : start + _AT_ONCE]
            compare = ("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty")
            differing.update(scratch_git(*compare, "--", *page, limit=LONG).words)
            in_tree = set(scratch_git("ls-files", "-z", "--", *page).words)
            differing.update(path for path in page if path not in in_tree and os.path.lexists(top / path))
    return differing
