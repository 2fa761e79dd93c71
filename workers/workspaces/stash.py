"""The stashes of one attempt, among those of all worktrees, which share one list."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from workers.runners.base import Control
from workers.workspaces.git import LONG, Git, GitFailed
from workers.workspaces.merge_lock import records_lock

if TYPE_CHECKING:
    from workers.workspaces.head_history import HeadHistory
    from workers.workspaces.worktree import Worktree

REF = "refs/stash"
_SUBJECT = re.compile(r"(?:WIP on|On) (.*?): ")
_NO_BRANCH = "(no branch)"
_WITH_UNTRACKED = 3  # parents: the commit it was made on, the index, the untracked files


def entries(git: Git, refs: Collection[str] | None = None) -> dict[str, str]:
    """Return the stashed commits, newest first, with their messages. *refs*: the existing refs, if known."""
    if REF not in refs if refs is not None else git("rev-parse", "--quiet", "--verify", REF, may_fail=True).code:
        return {}
    words = git("log", "-g", "-z", "--format=%H %gs", REF, "--").words
    return {commit: message for commit, _, message in (word.partition(" ") for word in words)}


def is_from(place: Worktree, commit: str, past: HeadHistory, *, author: str, alone: bool) -> bool:
    """Return whether *commit* was stashed in the worktree with the HEAD history *past*.

    The task's branch is checked out in no other worktree. A stash on another branch needs the same author, a commit
    that HEAD was at and the reset that git does when it stashes; on no branch, *alone* decides.
    """
    by, moment, parents, subject = place.git("log", "-1", "--format=%ce%n%ct%n%P%n%s", commit).text.split("\n", 3)
    match = _SUBJECT.match(subject)
    branch = _NO_BRANCH if match is None else match[1]
    if branch.startswith("coord/"):
        return branch == place.repository.task_branch
    if by != author or parents.split(" ")[0] not in {place.start, *past.places}:
        return False
    if branch == _NO_BRANCH:
        return alone
    return any(abs(reset - int(moment)) <= 1 for reset in past.resets)


def as_change(place: Worktree, commit: str) -> str:
    """Return a commit with the content of a stash, including untracked files, on top of its base."""
    git = place.git
    parents = git("rev-parse", f"{commit}^@").text.split()
    tree = git.tree_of(commit)
    if len(parents) >= _WITH_UNTRACKED:
        with git.with_own_index(place.worktree_folder.path, place.record) as own:
            own("read-tree", tree, limit=LONG)
            untracked = git("ls-tree", "-r", "-z", "--full-tree", parents[2], limit=LONG).out
            own("update-index", "-z", "--index-info", stdin=untracked, limit=LONG)
            tree = own("write-tree").text
    return git("commit-tree", tree, "-p", parents[0], "-m", "stash").text


def drop(place: Worktree, commits: Collection[str]) -> None:
    """Remove *commits* from the list. Restores others' entries that a concurrent change made git remove instead."""
    if not commits:
        return
    git = place.git
    with records_lock(place.worktree_folder.root, place.repository.common, Control(scratch=place.record)):
        for commit in commits:
            before = entries(git)
            if commit not in before:
                continue
            with contextlib.suppress(GitFailed):
                git("stash", "drop", "--quiet", f"stash@{{{list(before).index(commit)}}}")
            after = entries(git)
            for lost in [other for other in reversed(before) if other != commit and other not in after]:
                git("stash", "store", "--message", before[lost], lost)
