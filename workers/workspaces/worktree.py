"""One attempt's worktree: made at a commit, on the task's branch; what the attempt changed becomes one commit."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from coordination.domain.attempts import Claim
from coordination.domain.workspaces import run_slug, slug
from coordination.errors import Refused
from workers.runners.base import Control
from workers.workspaces import lodging
from workers.workspaces.git import LONG, Git, GitFailed
from workers.workspaces.lodging import Lodging
from workers.workspaces.repository import Repository
from workers.workspaces.turns import records_turn

LODGING = "lodging"
"""Where a task carries the name of the folder in which its last attempt was."""

_MARKER = re.compile(rb"^(<{7} |>{7} )", re.MULTILINE)
_UNFINISHED = ("MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "AUTO_MERGE", "CHERRY_PICK_HEAD", "REVERT_HEAD")
_MOST_NAMED = 20
_FIELDS_BEFORE_PATH = 10  # of an unmerged entry


class Unresolved(Exception):
    """Conflicts are left in these files."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__(", ".join(paths))
        self.paths = paths


@dataclass(slots=True)
class Worktree:
    """``start`` is the commit from which on its changes count. ``git`` works in it, whatever became of its files."""

    repository: Repository
    lodging: Lodging
    git: Git
    record: Path
    start: str
    conflicts: tuple[str, ...] = ()  # files that it began with half merged

    @property
    def folder(self) -> str:
        """Where the job runs: what is its folder in the checkout."""
        return str(self.lodging.path / self.repository.prefix).rstrip("/")

    def counterpart(self, path: str) -> str:
        """What *path*, if it leads into the checkout, is in the worktree."""
        top = self.repository.top
        if top is None or not os.path.isabs(path):  # noqa: PTH117 - a text comes in
            return path
        real = Path(path).resolve()
        return str(self.lodging.path / real.relative_to(top)) if real.is_relative_to(top) else path

    def under(self, control: Control) -> Worktree:
        """The same under other orders."""
        return replace(self, git=self.git.under(control))

    def resume(self, base: str) -> None:
        """Let it have begun at *base*: what it holds beyond that is a change that is not committed."""
        self.git("update-ref", "HEAD", base)
        self.start = base

    def merge(self, commit: str) -> list[str]:
        """Half merge *commit* into it; the files with conflicts."""
        if self.git("merge", "--no-commit", "--no-ff", "--quiet", commit, limit=LONG, may_fail=True).code == 0:
            return []
        self.conflicts = tuple(self._unmerged(self._status()))
        return list(self.conflicts)

    def go_on_merging(self, commit: str) -> None:
        """Its next commit has *commit* as a parent too."""
        (self.record / "MERGE_HEAD").write_text(f"{commit}\n", encoding="ascii")

    def commit(self, message: str) -> str:
        """Commit all that was changed, as one who has no hooks; the commit that it stands at then.

        Raises Unresolved when conflicts are left.
        """
        for lock in self.record.glob("*.lock"):  # whoever held it has been ended with the job
            lock.unlink(missing_ok=True)
        status = self._status()
        doubtful = dict.fromkeys([*self.conflicts, *self._unmerged(status)])
        if left := [path for path in doubtful if self._has_markers(path)]:
            raise Unresolved(left[:_MOST_NAMED])
        head = next((word.split()[-1] for word in status if word.startswith("# branch.oid ")), "")
        if head == "(initial)":
            raise GitFailed("the worktree is on a branch without commits")
        merging = self._merge_heads()
        if merging or any(not word.startswith("#") for word in status):
            self.git("add", "--all", limit=LONG)
            tree = self.git("write-tree").text
            if merging or tree != self.git("rev-parse", f"{head}^{{tree}}").text:
                parents = [word for parent in (head, *merging) for word in ("-p", parent)]
                head = self.git("commit-tree", tree, *parents, "-m", message).text
        for name in _UNFINISHED:
            (self.record / name).unlink(missing_ok=True)
        return head

    def detach(self, commit: str) -> None:
        """Stand at the *commit* that was just made, on no branch: what a gate commits is nobody's."""
        self.git("update-ref", "--no-deref", "HEAD", commit)

    def stand_at(self, commit: str) -> None:
        """Check out *commit*; files that git ignores stay, such as what was installed or built."""
        self.git("checkout", "--quiet", "--force", "--detach", commit, limit=LONG)

    def remove(self) -> None:
        """Take it away."""
        self.lodging.leave()

    def keep(self, until: float) -> None:
        """Leave it for people to look at, on no branch."""
        with contextlib.suppress(GitFailed):
            self.git("update-ref", "--no-deref", "HEAD", self.git("rev-parse", "HEAD").text)
        self.lodging.keep(until)

    def _status(self) -> list[str]:
        said = self.git(
            *("status", "--porcelain=v2", "--branch", "-z", "--no-renames"),
            *("--untracked-files=normal", "--ignore-submodules=dirty"),
            limit=LONG,
        )
        return said.words

    def _unmerged(self, status: list[str]) -> list[str]:
        return [word.split(" ", _FIELDS_BEFORE_PATH)[-1] for word in status if word.startswith("u ")]

    def _has_markers(self, path: str) -> bool:
        try:
            return bool(_MARKER.search((self.lodging.path / path).read_bytes()))
        except OSError:
            return False  # taken away, which settles it too

    def _merge_heads(self) -> list[str]:
        try:
            return (self.record / "MERGE_HEAD").read_text(encoding="ascii").split()
        except (OSError, UnicodeDecodeError):
            return []


def _record_of(place: Lodging) -> Path:
    found = lodging.record_of(place.path, place.common)
    if found is None:
        raise GitFailed("git made a worktree without a record of it")
    return found


def _lodging(root: Path, claim: Claim, repository: Repository) -> Lodging:
    """Where an earlier attempt was, if it left that for this one: some agents know a conversation by its folder."""
    run, name = run_slug(claim.run_id), f"{slug(claim.key)}.{claim.attempt}"
    before = str(claim.carried.get(LODGING, ""))
    ours = before.startswith(f"{slug(claim.key)}.") and "/" not in before
    if ours and not (root / run / before).exists():
        with contextlib.suppress(BlockingIOError):  # somebody is still there
            return lodging.take(root, run, before, common=repository.common)
    return lodging.take(root, run, name, common=repository.common)


def make(repository: Repository, root: Path, claim: Claim, start: str, control: Control) -> Worktree:
    """A worktree for the claimed attempt, on the task's branch, which is set to *start*."""
    if repository.top is not None and root.resolve().is_relative_to(repository.top):
        raise Refused(
            f"Worktrees would be made in {root}, inside of the checkout {repository.top}",
            hint="Set COORD_WORKTREES to a folder outside of it",
        )
    place = _lodging(root.resolve(), claim, repository)
    try:
        repository.move(repository.task_branch, start)
        # --force: an earlier attempt's worktree may still be there, on this machine or another.
        with records_turn(repository.common, control):
            repository.git("worktree", "add", "--no-checkout", "--force", str(place.path), repository.task_branch)
        record = _record_of(place)
        git = repository.git.at(place.path, GIT_DIR=str(record), GIT_WORK_TREE=str(place.path))
        git("reset", "--quiet", "--hard", limit=LONG)
    except BaseException:
        place.leave()
        raise
    return Worktree(repository, place, git, record, start)
