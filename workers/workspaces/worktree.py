"""One attempt's worktree: made at a commit, on the task's branch; what the attempt changed becomes one commit."""

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
from workers.workspaces.git import LONG, Git, GitFailed, GitTimeout, identity_of
from workers.workspaces.merge_conflicts import ConflictResolution, MergeConflict, trial
from workers.workspaces.merge_lock import records_turn
from workers.workspaces.nested_repositories import NotCollected
from workers.workspaces.repository import Repository
from workers.workspaces.worktree_folder import WorktreeFolder

WORKTREE_FOLDER = "lodging"
"""Where a task carries the name of the folder in which its last attempt was."""

_UNFINISHED = (
    *("MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "MERGE_AUTOSTASH", "AUTO_MERGE"),
    *("CHERRY_PICK_HEAD", "REVERT_HEAD"),
)
_CLOSED = re.compile(r"could not open directory '(.*?)/?': Permission denied")
_MOST_NAMED = 20
_FIELDS_BEFORE_PATH = 10  # of an unmerged entry


class Unresolved(Exception):
    """Conflicts that nobody has resolved."""

    def __init__(self, conflicts: Sequence[MergeConflict]) -> None:
        named = [str(conflict) for conflict in conflicts[:_MOST_NAMED]]
        more = len(conflicts) - len(named)
        super().__init__(", ".join([*named, *([f"and {more} more"] if more else [])]))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a worktree holds, as a commit and its tree. ``inside``: commits of the repository's worktrees inside it."""

    commit: str
    tree: str
    inside: list[str]


@dataclass(slots=True)
class Worktree:
    """``start`` is the commit from which on its changes count. ``git`` works in it, whatever became of its files."""

    repository: Repository
    worktree_folder: WorktreeFolder
    git: Git
    record: Path
    start: str
    resolving: ConflictResolution = field(default_factory=ConflictResolution)  # what it began with half merged
    is_kept: bool = False

    @property
    def folder(self) -> str:
        """Where the job runs: what is its folder in the checkout."""
        return str(self.worktree_folder.path / self.repository.prefix).rstrip("/")

    def counterpart(self, path: str) -> str:
        """What *path*, if it leads into the checkout, is in the worktree."""
        top = self.repository.top
        if top is None or not os.path.isabs(path):  # noqa: PTH117 - a text comes in
            return path
        real = Path(path).resolve()
        return str(self.worktree_folder.path / real.relative_to(top)) if real.is_relative_to(top) else path

    def under(self, control: Control) -> Worktree:
        """The same under other orders."""
        return replace(self, git=self.git.under(control))

    def resume(self, base: str) -> None:
        """Let it have begun at *base*: what it holds beyond that is a change that is not committed."""
        self.git("update-ref", "HEAD", base)
        self.start = base

    def merge(self, commit: str) -> bool:
        """Half merge *commit* into it; whether something is in conflict then, which ``resolving`` describes."""
        tried = trial(self.git, "HEAD", commit)
        said = self.git("merge", "--no-commit", "--no-ff", "--quiet", commit, limit=LONG, may_fail=True)
        if said.code and not self._merge_heads():
            raise GitFailed(f"git could not begin to merge {commit}: files that are not committed may be in the way")
        self.resolving = ConflictResolution(tried.tree, tried.conflicts, tried.entries)
        return said.code != 0

    def go_on_merging(self, commit: str) -> None:
        """Its next commit has *commit* as a parent too."""
        untrusted_files.write_new(self.record / "MERGE_HEAD", f"{commit}\n".encode())

    def commit(self, message: str, *, onto: str | None = None, checked: bool = True) -> Snapshot:
        """Commit all that was changed, as one who has no hooks, on top of HEAD, or of *onto*.

        Raises Unresolved when conflicts are left, NotCollected for what a commit cannot hold (of repositories inside
        only when *checked*).
        """
        for lock in self.record.glob("*.lock"):  # whoever held it has been ended with the job
            untrusted_files.unlink(lock)
        self._look_at_all_files(onto or "HEAD")
        status = self._status()
        if left := self.resolving.left(self.git, self.worktree_folder.path, self.record, self._unmerged(status)):
            raise Unresolved(left)
        head = onto or next((word.split()[-1] for word in status if word.startswith("# branch.oid ")), "")
        if head == "(initial)":
            raise GitFailed("the worktree is on a branch without commits")
        place, merging = (
            nested_repositories.NestedLocation(self.git, self.worktree_folder.path, self.repository.common),
            self._merge_heads(),
        )
        changed = merging or onto or any(not word.startswith("#") for word in status)
        with nested_repositories.as_files(place, checked=checked) as inside:
            if changed or inside.found:
                self._add_all()
        tree = before = self.git("rev-parse", f"{head}^{{tree}}").text
        if changed or inside.found:
            tree = self.git("write-tree").text
        if merging or tree != before:
            parents = [word for parent in (head, *merging) for word in ("-p", parent)]
            head = self.git("commit-tree", tree, *parents, "-m", message).text
        return Snapshot(head, tree, inside.heads)

    def settle(self) -> None:
        """End what was begun and is committed now, such as a merge."""
        for name in _UNFINISHED:
            untrusted_files.unlink(self.record / name)

    def snapshot(self, message: str) -> str:
        """A commit of all that is in its folder, conflicts as they are, to take from; nothing of it is checked out."""
        index = self.record / "coordination-index"
        apart = self.git.at(self.worktree_folder.path, GIT_INDEX_FILE=str(index))
        try:
            apart("read-tree", self.start)
            apart("add", "--all", limit=LONG)
            return apart("commit-tree", apart("write-tree").text, "-p", self.start, "-m", message).text
        finally:
            untrusted_files.unlink(index)

    def detach(self, commit: str) -> None:
        """Stand at the *commit* that was just made, on no branch: what a gate commits is nobody's."""
        self.git("update-ref", "--no-deref", "HEAD", commit)

    def stand_at(self, commit: str) -> None:
        """Check out *commit*; files that git ignores stay, such as what was installed or built."""
        self.git("checkout", "--quiet", "--force", "--detach", commit, limit=LONG)

    def gone(self) -> str | None:
        """What the job has taken away that is needed, and what to do; None when all is there."""
        if is_gone(self.repository.common):
            return f"its repository {self.repository.common} is gone: bring it back, then retry the task"
        if is_gone(self.worktree_folder.path):
            now = worktree_folder.place_of(self.record)
            went = f"was moved to {now}" if now not in (None, self.worktree_folder.path) else "is gone"
            return f"its worktree {self.worktree_folder.path} {went}: a job must leave its folder where it is"
        if is_gone(self.record / "HEAD"):
            path = self.worktree_folder.path
            return f"git's record {self.record} of its worktree {path} is gone: a job must leave it there"
        return None

    def committed(self) -> str | None:
        """The commit on the task's branch, if the job has moved that; it is there without the worktree too."""
        with contextlib.suppress(GitFailed):
            found = self.repository.commit_of(f"refs/heads/{self.repository.task_branch}")
            return None if found == self.start else found
        return None

    def remove(self) -> None:
        """Take it away."""
        self.worktree_folder.leave()

    def keep(self, until: float, *, branch_goes: bool, at: str | None = None) -> None:
        """Leave it for people to look at, on no branch, at the commit *at* or where it is.

        *branch_goes*: with it goes the task's branch, if no other attempt comes.
        """
        with contextlib.suppress(GitFailed):
            self.git("update-ref", "--no-deref", "HEAD", at or self.git("rev-parse", "HEAD").text)
        self.worktree_folder.keep(until, branch_goes=branch_goes)
        self.is_kept = True

    def holds_branch(self) -> bool:
        """Whether the kept worktree stands at what is on the task's branch, or beyond."""
        with contextlib.suppress(GitFailed):
            ref = f"refs/heads/{self.repository.task_branch}"
            tip = self.git("rev-parse", "--quiet", "--verify", ref, may_fail=True)
            return tip.code != 0 or self.git("merge-base", "--is-ancestor", tip.text, "HEAD", may_fail=True).code == 0
        return False

    def _look_at_all_files(self, head: str) -> None:
        """Let git see changes of files that it was told not to look at, and make its index anew if it is broken."""
        if (self.record / "index").exists():
            try:
                words = self.git("ls-files", "-v", "-z", limit=LONG).words
            except GitFailed as failed:
                if failed.transient:
                    raise
                untrusted_files.unlink(self.record / "index")
        if not (self.record / "index").exists():
            self.git("read-tree", head, limit=LONG)
            return
        for option, paths in (
            ("--no-assume-unchanged", [word[2:] for word in words if word[0].islower()]),
            # One that is not there was left out, as in a sparse checkout.
            ("--no-skip-worktree", [word[2:] for word in words if word[0] in "Ss" and self._is_there(word[2:])]),
        ):
            if paths:
                told = b"".join(os.fsencode(path) + b"\0" for path in paths)
                self.git("update-index", option, "-z", "--stdin", stdin=told, limit=LONG)

    def _add_all(self) -> None:
        limit = self.git.patience
        try:
            self.git("add", "--all", "--sparse", limit=limit)
        except GitTimeout:
            raise NotCollected(
                f"git did not get through the files in {self.worktree_folder.path} within {show_duration(limit)}: "
                "take away what is large, or name it in .gitignore"
            ) from None

    def _is_there(self, path: str) -> bool:
        return os.path.lexists(self.worktree_folder.path / path)

    def _status(self) -> list[str]:
        said = self.git(
            *("status", "--porcelain=v2", "--branch", "-z", "--no-renames"),
            *("--untracked-files=normal", "--ignore-submodules=dirty"),
            limit=LONG,
        )
        if (closed := _CLOSED.search(said.log)) is not None:
            raise NotCollected(
                f"{self.worktree_folder.path / closed[1]} may not be read, so its files cannot be committed"
            )
        return said.words

    def _unmerged(self, status: list[str]) -> list[str]:
        return [word.split(" ", _FIELDS_BEFORE_PATH)[-1] for word in status if word.startswith("u ")]

    def _merge_heads(self) -> list[str]:
        try:
            return untrusted_files.read(self.record / "MERGE_HEAD").decode("ascii").split()
        except (OSError, ValueError):
            return []


def message_of(claim: Claim) -> str:
    """The message of the commits that are made for a task."""
    subject = " ".join(claim.title.split()) or claim.key
    return f"{subject}\n\nCoord-Task: {claim.key} {claim.task_id}\nCoord-Run: {claim.run_id}\n"


def is_gone(path: Path) -> bool:
    """Whether it certainly is not there; a file server that does not answer says nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _record_of(place: WorktreeFolder) -> Path:
    found = worktree_folder.record_of(place.path, place.common)
    if found is None:
        raise GitFailed("git made a worktree without a record of it")
    return found


def _worktree_folder(root: Path, claim: Claim, repository: Repository) -> WorktreeFolder:
    """Where an earlier attempt was, if it left that for this one: some agents know a conversation by its folder."""
    run, name = run_slug(claim.run_id), f"{slug(claim.key)}.{claim.attempt}"
    before = str(claim.carried.get(WORKTREE_FOLDER, ""))
    owner = {
        "workspace": claim.workspace_id,
        "task": claim.task_id,
        "attempt": claim.attempt,
        "branch": repository.task_branch,
        "author": identity_of(claim)["GIT_AUTHOR_EMAIL"],
    }
    ours = before.startswith(f"{slug(claim.key)}.") and "/" not in before
    if ours and not (root / run / before).exists():
        with contextlib.suppress(BlockingIOError):  # somebody is still there
            return worktree_folder.take(root, run, before, common=repository.common, owner=owner)
    return worktree_folder.take(root, run, name, common=repository.common, owner=owner)


def make(repository: Repository, root: Path, claim: Claim, start: str, control: Control) -> Worktree:
    """A worktree for the claimed attempt, on the task's branch, which is set to *start*."""
    if repository.top is not None and root.resolve().is_relative_to(repository.top):
        raise Refused(
            f"Worktrees would be made in {root}, inside of the checkout {repository.top}",
            hint="Set COORD_WORKTREES to a folder outside of it",
        )
    place = _worktree_folder(root.resolve(), claim, repository)
    try:
        repository.move(repository.task_branch, start)
        # --force: an earlier attempt's worktree may still be there, on this machine or another.
        with records_turn(place.root, repository.common, control):
            place.path.mkdir(mode=0o755)  # what git may change has to be there
            add = repository.git.writing(place.path)
            add("worktree", "add", "--no-checkout", "--force", str(place.path), repository.task_branch)
        record = _record_of(place)
        git = repository.git.writing(place.path).at(place.path, GIT_DIR=str(record), GIT_WORK_TREE=str(place.path))
        git("reset", "--quiet", "--hard", limit=LONG)
    except BaseException:
        place.leave()
        raise
    return Worktree(repository, place, git, record, start)
