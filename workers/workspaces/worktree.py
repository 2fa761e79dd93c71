"""The git worktree of one attempt, created at a commit on the task's branch; its changes become one commit."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coordination.base.durations import show_duration
from coordination.base.errors import Refused
from coordination.domain.jobs.checkouts import run_slug, slug
from coordination.domain.tasks.attempts import Claim
from workers.runners import untrusted_files
from workers.runners.base import Control
from workers.workspaces import nested_repositories, worktree_folder
from workers.workspaces.git import LONG, Git, GitFailed, GitTimeout, identity_of, ids_in
from workers.workspaces.merge_conflicts import MergeConflict, TrialMerge, trial
from workers.workspaces.merge_lock import records_lock
from workers.workspaces.nested_repositories import NotCollected
from workers.workspaces.repository import Repository
from workers.workspaces.worktree_folder import WorktreeFolder

WORKTREE_FOLDER = "lodging"
"""The key of a task's carried data with the folder name of its last attempt."""

_UNFINISHED = (
    *("MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "MERGE_AUTOSTASH", "AUTO_MERGE"),
    *("CHERRY_PICK_HEAD", "REVERT_HEAD"),
)
_CLOSED = re.compile(r"could not open directory '(.*?)/?': Permission denied")
_MOST_NAMED = 20
_FIELDS_BEFORE_PATH = 10  # of an unmerged entry


class Unresolved(Exception):
    """The worktree has unresolved conflicts."""

    def __init__(self, conflicts: Sequence[MergeConflict]) -> None:
        named = [str(conflict) for conflict in conflicts[:_MOST_NAMED]]
        more = len(conflicts) - len(named)
        super().__init__(", ".join([*named, *([f"and {more} more"] if more else [])]))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of a worktree as a commit and its tree. ``inside``: HEADs of the repository's worktrees inside it."""

    commit: str
    tree: str
    inside: list[str]


@dataclass(slots=True)
class Worktree:
    """A worktree. ``start``: the base commit of its changes. ``git`` works even if its ``.git`` is damaged."""

    repository: Repository
    worktree_folder: WorktreeFolder
    git: Git
    record: Path
    start: str
    resolving: TrialMerge = field(default_factory=TrialMerge)  # the merge that the job completes
    is_kept: bool = False

    @property
    def folder(self) -> str:
        """The job's directory: the counterpart of its directory in the checkout."""
        return str(self.worktree_folder.path / self.repository.prefix).rstrip("/")

    def counterpart(self, path: str) -> str:
        """Map a path in the checkout to the worktree. Other paths are returned unchanged."""
        top = self.repository.top
        if top is None or not os.path.isabs(path):  # noqa: PTH117 - a text comes in
            return path
        real = Path(path).resolve()
        return str(self.worktree_folder.path / real.relative_to(top)) if real.is_relative_to(top) else path

    def under(self, control: Control) -> Worktree:
        return replace(self, git=self.git.under(control))

    def resume(self, base: str) -> None:
        """Set the start to *base*, so that all differences from it are uncommitted changes."""
        self.git("update-ref", "HEAD", base)
        self.start = base

    def merge(self, commit: str) -> bool:
        """Merge *commit* without committing. Return whether there are conflicts, which ``resolving`` describes."""
        resolving = trial(self.git, "HEAD", commit)
        output = self.git("merge", "--no-commit", "--no-ff", "--quiet", commit, limit=LONG, may_fail=True)
        if output.code and not self._merge_heads():
            raise GitFailed(f"git could not begin to merge {commit}: files that are not committed may be in the way")
        self.resolving = resolving
        return output.code != 0

    def add_merge_parent(self, commit: str) -> None:
        """Make *commit* a parent of the next commit."""
        untrusted_files.write_new(self.record / "MERGE_HEAD", f"{commit}\n".encode())

    def commit(self, message: str, *, onto: str | None = None, checked: bool = True) -> Snapshot:
        """Commit all changes, without hooks, on top of HEAD or of *onto*.

        Raises Unresolved for conflicts, NotCollected for what a commit cannot contain (for nested repositories only if
        *checked*).
        """
        for lock in self.record.glob("*.lock"):  # its owner has ended with the job
            untrusted_files.unlink(lock)
        self._reset_index_flags(onto or "HEAD")
        status, folder = self._status(), self.worktree_folder.path
        unmerged = [word.split(" ", _FIELDS_BEFORE_PATH)[-1] for word in status if word.startswith("u ")]
        if conflicts := self.resolving.unresolved(self.git, folder, self.record, unmerged):
            raise Unresolved(conflicts)
        head = onto or next((word.split()[-1] for word in status if word.startswith("# branch.oid ")), "")
        if head == "(initial)":
            raise GitFailed("the worktree is on a branch without commits")
        place = nested_repositories.NestedLocation(self.git, folder, self.repository.common)
        merging = self._merge_heads()
        changed = merging or onto or any(not word.startswith("#") for word in status)
        with nested_repositories.as_files(place, checked=checked) as inside:
            if changed or inside.any:
                self._add_all()
        tree = before = self.git.tree_of(head)
        if changed or inside.any:
            tree = self.git("write-tree").text
        if merging or tree != before:
            parents = [word for parent in (head, *merging) for word in ("-p", parent)]
            head = self.git("commit-tree", tree, *parents, "-m", message).text
        return Snapshot(head, tree, inside.heads)

    def settle(self) -> None:
        """Remove the state of operations that are committed now, such as a merge."""
        for name in _UNFINISHED:
            untrusted_files.unlink(self.record / name)

    def snapshot(self, message: str) -> str:
        """Commit all files, with conflicts as they are, without changing HEAD or the index. Return the commit."""
        with self.git.with_own_index(self.worktree_folder.path, self.record) as apart:
            apart("read-tree", self.start)
            apart("add", "--all", limit=LONG)
            return apart("commit-tree", apart("write-tree").text, "-p", self.start, "-m", message).text

    def detach(self, commit: str) -> None:
        """Move a detached HEAD to *commit*, which was just made, so that a commit of a gate is on no branch."""
        self.git("update-ref", "--no-deref", "HEAD", commit)

    def stand_at(self, commit: str) -> None:
        """Check out *commit*. Ignored files stay, such as installed packages or build results."""
        self.git("checkout", "--quiet", "--force", "--detach", commit, limit=LONG)

    def find_missing(self) -> str | None:
        """Return a sentence on what the job has deleted and what to do, or None when nothing is missing."""
        if is_gone(self.repository.common):
            return f"its repository {self.repository.common} is gone: bring it back, then retry the task"
        path = self.worktree_folder.path
        if is_gone(path):
            now = worktree_folder.place_of(self.record)
            what = f"was moved to {now}" if now not in (None, path) else "is gone"
            return f"its worktree {path} {what}: a job must leave its folder where it is"
        if is_gone(self.record / "HEAD"):
            return f"git's record {self.record} of its worktree {path} is gone: a job must leave it there"
        return None

    def branch_commit(self) -> str | None:
        """Return the commit of the task's branch, if the job has moved it. Works without the worktree too."""
        with contextlib.suppress(GitFailed):
            commit = self.repository.commit_of(f"refs/heads/{self.repository.task_branch}")
            return None if commit == self.start else commit
        return None

    def keep(self, until: float, *, branch_goes: bool, at: str | None = None) -> None:
        """Keep it for people to inspect, with a detached HEAD at the commit *at* or where it is.

        *branch_goes*: delete the task's branch with it, if no other attempt follows.
        """
        with contextlib.suppress(GitFailed):
            self.git("update-ref", "--no-deref", "HEAD", at or self.git("rev-parse", "HEAD").text)
        self.worktree_folder.keep(until, branch_goes=branch_goes)
        self.is_kept = True

    def holds_branch(self) -> bool:
        """Return whether the HEAD of the kept worktree contains the task's branch."""
        with contextlib.suppress(GitFailed):
            ref = f"refs/heads/{self.repository.task_branch}"
            tip = self.git("rev-parse", "--quiet", "--verify", ref, may_fail=True)
            return tip.code != 0 or self.git("merge-base", "--is-ancestor", tip.text, "HEAD", may_fail=True).code == 0
        return False

    def _reset_index_flags(self, head: str) -> None:
        """Clear index flags that hide changes of files from git, and rebuild a damaged index."""
        folder, index = self.worktree_folder.path, self.record / "index"
        if index.exists():
            try:
                words = self.git("ls-files", "-v", "-z", limit=LONG).words
            except GitFailed as failed:
                if failed.transient:
                    raise
                untrusted_files.unlink(index)
        if not index.exists():
            self.git("read-tree", head, limit=LONG)
            return
        skipped = [word[2:] for word in words if word[0] in "Ss"]
        for option, paths in (
            ("--no-assume-unchanged", [word[2:] for word in words if word[0].islower()]),
            # A missing file was left out on purpose, as in a sparse checkout.
            ("--no-skip-worktree", [path for path in skipped if os.path.lexists(folder / path)]),
        ):
            if paths:
                names = b"".join(os.fsencode(path) + b"\0" for path in paths)
                self.git("update-index", option, "-z", "--stdin", stdin=names, limit=LONG)

    def _add_all(self) -> None:
        limit = self.git.patience
        try:
            self.git("add", "--all", "--sparse", limit=limit)
        except GitTimeout:
            raise NotCollected(
                f"git did not get through the files in {self.worktree_folder.path} within {show_duration(limit)}: "
                "take away what is large, or name it in .gitignore"
            ) from None

    def _status(self) -> list[str]:
        output = self.git(
            *("status", "--porcelain=v2", "--branch", "-z", "--no-renames"),
            *("--untracked-files=normal", "--ignore-submodules=dirty"),
            limit=LONG,
        )
        if (closed := _CLOSED.search(output.log)) is not None:
            raise NotCollected(
                f"{self.worktree_folder.path / closed[1]} may not be read, so its files cannot be committed"
            )
        return output.words

    def _merge_heads(self) -> list[str]:
        return ids_in(self.record / "MERGE_HEAD")


def message_of(claim: Claim) -> str:
    """Return the commit message for a task."""
    subject = " ".join(claim.title.split()) or claim.key
    return f"{subject}\n\nCoord-Task: {claim.key} {claim.task_id}\nCoord-Run: {claim.run_id}\n"


def is_gone(path: Path) -> bool:
    """Return whether *path* certainly does not exist. An unreachable file server proves nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _worktree_folder(root: Path, claim: Claim, repository: Repository) -> WorktreeFolder:
    """Take the folder of an earlier attempt if it is free, because some agents identify a conversation by its path."""
    run, name = run_slug(claim.run_id), f"{slug(claim.key)}.{claim.attempt}"
    before = str(claim.carried_over.get(WORKTREE_FOLDER, ""))
    owner = {
        "workspace": claim.workspace_id,
        "task": claim.task_id,
        "attempt": claim.attempt,
        "branch": repository.task_branch,
        "author": identity_of(claim)["GIT_AUTHOR_EMAIL"],
    }
    is_ours = before.startswith(f"{slug(claim.key)}.") and "/" not in before
    if is_ours and not (root / run / before).exists():
        with contextlib.suppress(BlockingIOError):  # another attempt still runs there
            return worktree_folder.acquire(root, run, before, common=repository.common, owner=owner)
    return worktree_folder.acquire(root, run, name, common=repository.common, owner=owner)


def create(repository: Repository, root: Path, claim: Claim, start: str, control: Control) -> Worktree:
    """Create a worktree for the claimed attempt, on the task's branch, which is set to *start*."""
    if repository.top is not None and root.resolve().is_relative_to(repository.top):
        raise Refused(
            f"Worktrees would be made in {root}, inside of the checkout {repository.top}",
            hint="Set COORD_WORKTREES to a folder outside of it",
        )
    place = _worktree_folder(root.resolve(), claim, repository)
    try:
        repository.move(repository.task_branch, start)
        # --force: an earlier attempt's worktree may still be there, on this machine or another.
        with records_lock(place.root, repository.common, control):
            place.path.mkdir(mode=0o755)  # a sandbox can only make existing paths writable
            allowed = repository.git.allow_writing(place.path)
            allowed("worktree", "add", "--no-checkout", "--force", str(place.path), repository.task_branch)
        if (record := worktree_folder.record_of(place.path, place.common)) is None:
            raise GitFailed("git created a worktree without a record")  # noqa: TRY301 - deletes the folder, as others do
        git = allowed.at(place.path, GIT_DIR=str(record), GIT_WORK_TREE=str(place.path))
        git("reset", "--quiet", "--hard", limit=LONG)
    except BaseException:
        place.leave()
        raise
    return Worktree(repository, place, git, record, start)
