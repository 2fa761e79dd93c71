"""A repository as its worktrees share it: where it keeps itself, its branches below ``coord/``, locks left behind."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.jobs.checkouts import Workspace, run_branch, task_branch
from coordination.domain.tasks.attempts import Claim
from workers.runners import untrusted_files
from workers.runners.program import can_be_entered, folder_problem
from workers.runners.sandbox_exec import repository_of as repository_folder
from workers.workspaces.git import Git, GitFailed

_STALE = 60.0  # seconds after which nobody holds a lock on a branch any more: git needs milliseconds
_NOTHING = ""  # where git is told that a branch must not be there yet
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository, seen from a folder in a checkout of it. ``top`` is that checkout's, None in a bare one.

    ``prefix``: from there to the folder. Calls of ``git`` happen in the folder.
    """

    git: Git
    common: Path
    top: Path | None
    prefix: str
    branch: str  # of the run
    task_branch: str

    def head(self) -> str | None:
        """The commit of the run's branch, or None before its first use."""
        return self.commit_of(f"refs/heads/{self.branch}")

    def commit_of(self, name: str) -> str | None:
        """The commit that *name* means, or None."""
        said = self.git("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}", may_fail=True)
        found = said.text
        return found if said.code == 0 and _COMMIT.fullmatch(found) else None

    def has(self, commit: object) -> bool:
        """Whether *commit*, as it was carried, is the whole id of a commit that is still there."""
        return isinstance(commit, str) and bool(_COMMIT.fullmatch(commit)) and self.commit_of(commit) is not None

    def begun(self, workspace: Workspace) -> str:
        """The commit of the run's branch, which is made at its base if this is its first use."""
        if (head := self.head()) is not None:
            return head
        base = self.commit_of(workspace.base or "HEAD")
        if base is None and workspace.base is not None:
            raise Refused(f"The repository {self.common} has no branch, tag or commit {excerpt(workspace.base)}")
        if base is None:
            raise Refused(
                f"The repository {self.common} has no commit yet, so there is nothing to begin from",
                hint='Commit something there: git commit --allow-empty -m "Begin"',
            )
        try:
            made = self.move(self.branch, base, was=_NOTHING)
        except GitFailed:
            self._check_way()
            raise
        if not made:
            found = self.head()
            if found is None:
                raise GitFailed(f"The branch {self.branch} cannot be made", transient=True)
            return found
        return base

    def _check_way(self) -> None:
        """Refuse where a branch has the name of a folder that the run's branch is in: git cannot have both."""
        for parent in list(PurePosixPath(self.branch).parents)[:-1]:
            if self.commit_of(f"refs/heads/{parent}") is not None:
                raise Refused(
                    f"The repository {self.common} has a branch {parent}, so the branch {self.branch} cannot be made",
                    hint=f"Rename it: git branch -m {parent} NAME",
                )

    def move(self, branch: str, commit: str, *, was: str | None = None) -> bool:
        """Set a branch, if it still is where it *was*; whether it is there now. Raises GitFailed when git says no."""
        ref = f"refs/heads/{branch}"
        self._unlock(ref)
        expected = [] if was is None else [was]
        try:
            self.git("update-ref", "-m", "coordination", ref, commit, *expected)
        except GitFailed:
            now = self.commit_of(ref)
            if was is None or now == (None if was == _NOTHING else was):
                raise  # nobody was faster: it is something else
            return now == commit
        return True

    def drop(self, branch: str) -> None:
        """Take a branch away, if it is there."""
        ref = f"refs/heads/{branch}"
        self._unlock(ref)
        self.git("update-ref", "-d", ref)

    def contains(self, commit: str, head: str) -> bool:
        """Whether *commit* is *head* or one of its ancestors."""
        return self.git("merge-base", "--is-ancestor", commit, head, may_fail=True).code == 0

    def _unlock(self, ref: str) -> None:
        """A git that was killed leaves its lock behind, and every later one would stumble over it."""
        path = self.common / f"{ref}.lock"
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE:
                untrusted_files.unlink(path)


def repository_of(git: Git, claim: Claim) -> Repository:
    """The repository of the folder that the claimed job is meant for; Refused when there is none."""
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
    # Looked up before the job: what it makes of the link back to the repository leads its own git nowhere else.
    own = repository_folder(folder) if lines[1] else [os.path.realpath(folder)]
    return Repository(
        git=here.writing(*own),
        common=Path(lines[0]),
        top=Path(lines[1]).resolve() if lines[1] else None,
        prefix=lines[2],
        branch=run_branch(claim.run_id),
        task_branch=task_branch(claim.run_id, claim.key),
    )


def _places(here: Git) -> list[str]:
    """Where the repository is, the checkout's top and the way from there; the latter two empty in a bare one."""
    ask = ("rev-parse", "--path-format=absolute")
    try:
        return here(*ask, "--git-common-dir", "--show-toplevel", "--show-prefix").text.split("\n")
    except GitFailed as failed:
        if "work tree" not in failed.sentence:
            raise
        return [here(*ask, "--git-common-dir").text, "", ""]
