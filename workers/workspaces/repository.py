"""A repository that worktrees share: its git directory, its branches below ``coord/``, stale lock files."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.jobs.checkouts import Checkout, run_branch, task_branch
from coordination.domain.tasks.attempts import Claim
from workers.runners import untrusted_files
from workers.runners.base import Control
from workers.runners.program import can_be_entered, folder_problem
from workers.runners.sandbox_exec import repository_of as repository_folder
from workers.workspaces.git import Git, GitFailed

_STALE = 60.0  # seconds after which a lock on a branch is stale: git needs milliseconds
_NOTHING = ""  # the old value of a branch that must not exist yet
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository and the project's directory in a checkout of it. ``top``: of that checkout, None in a bare one.

    ``prefix``: the path of the directory relative to ``top``. ``git`` runs in the directory.
    """

    git: Git
    common: Path
    top: Path | None
    prefix: str
    branch: str  # of the run
    task_branch: str

    def under(self, control: Control) -> Repository:
        """Return a copy whose git has another control."""
        return replace(self, git=self.git.under(control))

    def head(self) -> str | None:
        """Return the commit of the run's branch, or None before its first use."""
        return self.commit_of(f"refs/heads/{self.branch}")

    def commit_of(self, name: str) -> str | None:
        """Return the commit that *name* refers to, or None."""
        output = self.git("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}", may_fail=True)
        return output.text if output.code == 0 and _COMMIT.fullmatch(output.text) else None

    def has(self, commit: object) -> bool:
        """Return whether *commit*, a carried value, is the full id of an existing commit."""
        return isinstance(commit, str) and bool(_COMMIT.fullmatch(commit)) and self.commit_of(commit) is not None

    def ensure_branch(self, checkout: Checkout) -> str:
        """Return the commit of the run's branch. Creates the branch at its base on first use."""
        if (head := self.head()) is not None:
            return head
        base = self.commit_of(checkout.base or "HEAD")
        if base is None and checkout.base is not None:
            raise Refused(f"The repository {self.common} has no branch, tag or commit {excerpt(checkout.base)}")
        if base is None:
            raise Refused(
                f"The repository {self.common} has no commit yet, so there is nothing to begin from",
                hint='Commit something there: git commit --allow-empty -m "Begin"',
            )
        try:
            created = self.move(self.branch, base, was=_NOTHING)
        except GitFailed:
            self._check_parents()
            raise
        if not created:
            head = self.head()
            if head is None:
                raise GitFailed(f"The branch {self.branch} cannot be created", transient=True)
            return head
        return base

    def _check_parents(self) -> None:
        """Raise Refused when a branch has the name of a parent of the run's branch: git cannot have both."""
        for parent in list(PurePosixPath(self.branch).parents)[:-1]:
            if self.commit_of(f"refs/heads/{parent}") is not None:
                raise Refused(
                    f"The repository {self.common} has a branch {parent}, so the branch {self.branch} cannot be made",
                    hint=f"Rename it: git branch -m {parent} NAME",
                )

    def move(self, branch: str, commit: str, *, was: str | None = None) -> bool:
        """Set a branch, if it is still at *was*. Return whether it is at *commit* now. Raises GitFailed."""
        ref = f"refs/heads/{branch}"
        self._unlock(ref)
        expected = [] if was is None else [was]
        try:
            self.git("update-ref", "-m", "coordination", ref, commit, *expected)
        except GitFailed:
            now = self.commit_of(ref)
            if was is None or now == (None if was == _NOTHING else was):
                raise  # the branch has not moved, so there is another cause
            return now == commit
        return True

    def drop(self, branch: str) -> None:
        """Delete a branch, if it exists."""
        ref = f"refs/heads/{branch}"
        self._unlock(ref)
        self.git("update-ref", "-d", ref)

    def contains(self, commit: str, head: str) -> bool:
        """Return whether *commit* is *head* or one of its ancestors."""
        return self.git("merge-base", "--is-ancestor", commit, head, may_fail=True).code == 0

    def _unlock(self, ref: str) -> None:
        """Delete a stale lock file of a killed git, on which every later git would fail."""
        path = self.common / f"{ref}.lock"
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE:
                untrusted_files.unlink(path)


def repository_of(git: Git, claim: Claim) -> Repository:
    """Return the repository of the claimed job's directory. Raises Refused when there is none."""
    folder = claim.workdir
    if folder is None:
        raise Refused(
            "A git worktree needs a repository, and the project has no folder",
            hint="Submit the plan from a checkout, or write project: {path: …}",
        )
    if not can_be_entered(folder):
        raise Refused(folder_problem(folder))
    here = git.at(folder)
    try:
        lines = _places(here)
    except GitFailed as failed:
        if failed.transient:
            raise
        raise Refused(
            f"A git worktree needs a repository, and {folder} is in none that can be used: {failed.sentence}",
            hint="Make one with git init, or write checkout: folder",
        ) from None
    # Read before the job runs, so that a job that changes the link cannot redirect git to another repository.
    own = repository_folder(folder) if lines[1] else [os.path.realpath(folder)]
    return Repository(
        git=here.allow_writing(*own),
        common=Path(lines[0]),
        top=Path(lines[1]).resolve() if lines[1] else None,
        prefix=lines[2],
        branch=run_branch(claim.run_id),
        task_branch=task_branch(claim.run_id, claim.key),
    )


def _places(here: Git) -> list[str]:
    """Return the git directory, the checkout's top and the prefix; the latter two are empty in a bare repository."""
    ask = ("rev-parse", "--path-format=absolute")
    try:
        return here(*ask, "--git-common-dir", "--show-toplevel", "--show-prefix").text.split("\n")
    except GitFailed as failed:
        if "work tree" not in failed.sentence:
            raise
        return [here(*ask, "--git-common-dir").text, "", ""]
