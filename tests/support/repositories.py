"""Real git repositories for tests, and attempts in worktrees of them, as a worker runs them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from coordination.base.ids import new_id
from coordination.domain.jobs.checkouts import run_branch
from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType
from tests.support.jobs import claim_of
from workers.attempt.pipeline import ConditionalStep, Pipeline, has_option
from workers.attempt.running import AttemptStep, RunningAttempt
from workers.attempt.steps.changed_files import EffectsStep
from workers.attempt.steps.gates import GatesStep
from workers.attempt.steps.job_folder import make_job_folder
from workers.attempt.steps.worktree import WorktreeStep
from workers.attempt.steps.worktree_commit import commit_worktree
from workers.runners import orphan_reaper
from workers.runners.base import Control, Runner
from workers.runners.registry import Runners

ADA = {
    **{f"GIT_{role}_NAME": "Ada" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "ada@example.org" for role in ("AUTHOR", "COMMITTER")},
}


class Checkout:
    """A person's checkout of a repository of their own."""

    def __init__(self, path: Path, *, commits: bool = True) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.noted: dict[str, str] = {}
        if commits:
            self.commit("Begin", readme="hello\n")

    def git(self, *arguments: str, fails: bool = False) -> str:
        """Run git and return its output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=environment | ADA | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
            capture_output=True,
            text=True,
            check=False,
        )
        assert fails or done.returncode == 0, f"git {arguments}: {done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def commit(self, message: str, **files: str) -> str:
        """Commit these files (a name without its ending: .txt is added)."""
        for name, text in files.items():
            (self.path / f"{name}.txt").write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.note()
        return self.git("rev-parse", "HEAD")

    def note(self) -> None:
        """Record the owner's state, which must not change from here on."""
        self.noted = self.state()

    def is_untouched(self) -> bool:
        """Return whether the owner's state is as recorded."""
        return self.state() == self.noted

    def shows(self, name: str, *, on: str) -> str:
        """Return a file as it is on a branch."""
        return self.git("show", f"{on}:{name}")

    def branches(self) -> list[str]:
        """Return the branches that the system has created here."""
        return self.git("for-each-ref", "--format=%(refname:short)", "refs/heads/coord").split()

    def worktrees(self) -> list[str]:
        """Return git's list of worktrees, except the checkout itself."""
        lines = self.git("worktree", "list", "--porcelain").splitlines()
        return [line.removeprefix("worktree ") for line in lines if line.startswith("worktree ")][1:]

    def state(self) -> dict[str, str]:
        """Return the state that only the owner may change."""
        dot = self.path / ".git"
        refs = self.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return {
            "status": self.git("status", "--porcelain", "--branch"),
            "head": self.git("rev-parse", "--verify", "HEAD", fails=True),
            "stash": self.git("stash", "list"),
            "config": (dot / "config").read_text(),
            "hooks": " ".join(sorted(path.name for path in (dot / "hooks").iterdir())),
            "index": self.git("ls-files", "--stage"),
            "owned": "\n".join(ref for ref in refs if "refs/heads/coord/" not in ref),
        }


class MergesInFolder:
    """Records merges in a folder as a store does, where these tests have no store; also readable by a later process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, claim: Claim, merge: Merge) -> bool:
        """Record a merge."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{claim.task_id}.{merge.attempt}").write_text(json.dumps(asdict(merge)))
        return True

    def unfinished(self, claim: Claim) -> Sequence[Merge]:
        """Return the records of earlier attempts."""
        paths = sorted(self.folder.glob(f"{claim.task_id}.*")) if self.folder.exists() else []
        merges = [Merge(**json.loads(path.read_text())) for path in reversed(paths)]
        return [merge for merge in merges if merge.attempt < claim.attempt]

    def forget(self, claim: Claim) -> None:
        """Delete the records of an ended task."""
        for path in self.folder.glob(f"{claim.task_id}.*"):
            path.unlink()


class Site:
    """A worker's side: runs attempts of one run on a checkout."""

    def __init__(self, runners: Runners, checkout: Checkout, folder: Path, *, keep: timedelta = timedelta(0)) -> None:
        self.runners = runners
        self.checkout = checkout
        self.folder = folder
        self.root = folder / "worktrees"
        self.merges = MergesInFolder(folder / "merges")
        self.worktrees = WorktreeStep(runners.launcher, self.merges, root=self.root, keep=keep)
        self.run_id = new_id()
        self.ids: dict[str, str] = {}
        self.events: list[tuple[EventType, dict[str, Any]]] = []

    def attempt(
        self,
        claim: Claim,
        control: Control,
        *,
        ours: bool = True,
        runner: Runner | None = None,
        more: Sequence[AttemptStep] = (),
    ) -> AttemptEnd:
        """Run one attempt to its end; *ours*: whether its lease is valid; *more*: steps between merge and gates."""
        launcher = self.runners.launcher
        steps = [
            ConditionalStep(has_option("gates"), make_job_folder),
            ConditionalStep(has_option("checkout"), self.worktrees),
            *(ConditionalStep(lambda _: True, step) for step in more),
            ConditionalStep(has_option("gates"), GatesStep(launcher)),
            ConditionalStep(lambda claim: "agent" in claim.work, EffectsStep(launcher)),
            ConditionalStep(has_option("checkout"), commit_worktree),
        ]
        pipeline = Pipeline(steps, lambda each: runner or self.runners.by_kind[each.job_kind])
        return pipeline.run(RunningAttempt(claim, claim, claim, control, is_ours=lambda: ours))

    @property
    def branch(self) -> str:
        """Return the run's branch."""
        return run_branch(self.run_id)

    def claim(self, key: str, work: Mapping[str, Any] | str, **changes: Any) -> Claim:
        """Return a claim of a task of this run, with a worktree unless *checkout* differs; a text is a command."""
        checkout = changes.pop("checkout", {"kind": "git-worktree"})
        gates = changes.pop("gates", None)
        options = {"checkout": checkout} | ({"gates": gates} if gates else {})
        values = {
            "task_id": self.ids.setdefault(key, new_id()),
            "run_id": self.run_id,
            "key": key,
            "title": f"Do {key}",
            "workdir": str(self.checkout.path),
            "options": {name: value for name, value in options.items() if value is not None},
        }
        return claim_of({"shell": work} if isinstance(work, str) else work, **values | changes)

    def control(self, **settings: Any) -> Control:
        """Return a control that records events."""
        return Control(
            scratch=self.folder / "scratch",
            on_event=lambda type_, payload: self.events.append((type_, payload)),
            **{"cancel_grace": timedelta(seconds=1), **settings},
        )

    def run(self, key: str, work: Mapping[str, Any] | str, *, stored: bool = True, **changes: Any) -> AttemptEnd:
        """Run an attempt from its beginning to its end, which then is *stored* or lost."""
        claim = self.claim(key, work, **changes)
        with self.control() as control:
            result = self.attempt(claim, control)
        if stored:
            self.worktrees.committed(claim, result, refused=False)
        return result

    def again(self, key: str, work: Mapping[str, Any] | str, after: AttemptEnd, **changes: Any) -> AttemptEnd:
        """Run the attempt that follows *after*, with its carried state."""
        number = changes.pop("attempt", 2)
        carried = {**changes.pop("carried_over", {}), **after.carry_over}
        return self.run(key, work, attempt=number, carried_over=carried, **changes)

    def left_behind(self) -> list[int]:
        """Return processes that outlived their attempts."""
        idle = {child.process.record.pid for child in self.runners.pool._idle}
        return [pid for pid in orphan_reaper.find([os.fsencode(self.runners.launcher.marker)]) if pid not in idle]

    def files_left(self) -> list[str]:
        """Return what is left of worktrees, and of our files in the repository."""
        ours = self.checkout.path / ".git" / "coordination"
        paths = [*(self.root.rglob("*") if self.root.exists() else ()), *(ours.rglob("*") if ours.exists() else ())]
        return sorted(str(path.relative_to(self.folder.parent)) for path in paths)


def agent(script: str, **more: object) -> dict[str, object]:
    """Return a stand-in for a coding agent with this prompt, which runs the script."""
    return {"agent": "custom", "prompt": "Do it", "command": ["/bin/sh", "-c", script], **more}


def merged_meanwhile(site: Site, key: str, script: str, **more: object) -> str:
    """Return a command that merges another task's change into the run's branch while a job runs."""
    before = site.checkout.git("rev-parse", site.branch, fails=True)
    before = before if len(before) == 40 else site.checkout.git("rev-parse", "HEAD")
    assert site.run(key, script, **more).outcome is Outcome.COMPLETED
    after = site.checkout.git("rev-parse", site.branch)
    site.checkout.git("update-ref", f"refs/heads/{site.branch}", before)
    return f"git update-ref refs/heads/{site.branch} {after}"
