"""Merge conflicts: which a merge has, of what kind, and which of them are unresolved.

Only conflicts between lines of text leave markers. All others (binary files, modify/delete, rename/rename, types,
submodules) leave one side in the directory and unmerged entries in the index. Such a conflict counts as resolved when
its entry was merged (``git add``, ``git rm``) or its file differs from what the merge left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    """The result of a merge: its *tree*, as the merge leaves it, and its *conflicts* with their *entries*."""

    tree: str = ""
    clean: bool = True
    entries: tuple[IndexEntry, ...] = ()
    conflicts: tuple[MergeConflict, ...] = ()

    def unresolved(self, git: Git, top: Path, record: Path, unmerged: Sequence[str]) -> list[MergeConflict]:
        """Return the unresolved conflicts, including those of a merge by the job. *unmerged*: paths in the index.

        *git* works in the worktree at *top*; *record* is its directory in the repository.
        """
        expected = {path for conflict in self.conflicts for path in conflict.paths}
        more = [MergeConflict((path,), "") for path in unmerged if path not in expected]
        if not self.conflicts and not more:
            return []
        open_now, with_entry = set(unmerged), {entry.path for entry in self.entries} | set(unmerged)
        tree = next(iter(ids_in(record / "AUTO_MERGE")), self.tree)  # that of the merge in progress
        own = {path for conflict in [*self.conflicts, *more] for path in conflict.paths} & open_now
        changed = _find_changed(git, top, record, tree, sorted(own)) if own and tree else set()

        def is_unresolved(conflict: MergeConflict) -> bool:
            if any(self._has_markers(git, top / path, path) for path in conflict.paths):
                return True
            entries = with_entry.intersection(conflict.paths)
            return bool(entries) and all(path in open_now and path not in changed for path in entries)

        return [
            conflict if conflict.kind else MergeConflict(conflict.paths)
            for conflict in [*self.conflicts, *more]
            if is_unresolved(conflict)
        ]

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
