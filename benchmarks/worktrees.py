"""What making a worktree ready adds to the start of a job, beside a bare worktree in the same round."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.bench import Bench
from benchmarks.measure import in_turns, series
from benchmarks.report import Line
from coordination.base.ids import new_id
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION
from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import Claim, Outcome
from workers.attempt.pipeline import ConditionalStep, Pipeline
from workers.attempt.running import RunningAttempt
from workers.attempt.steps.worktree import WorktreeStep
from workers.attempt.steps.worktree_commit import commit_worktree
from workers.runners.base import Control
from workers.runners.registry import Runners

_PACKAGES, _FILES, _SCRIPTS = 200, 50, 40
_TIMES = 5

# A virtual environment of some size: packages, scripts with the path of its interpreter, an editable install.
_MAKE = f"""
import pathlib
root = pathlib.Path(".venv").absolute()
site = root / "lib" / "python3" / "site-packages"
(root / "bin").mkdir(parents=True)
(root / "pyvenv.cfg").write_text(f"prompt = {{root}}")
for number in range({_SCRIPTS}):
    (root / "bin" / f"tool{{number}}").write_text(f"#!{{root}}/bin/python")
for package in range({_PACKAGES}):
    (site / f"p{{package}}").mkdir(parents=True)
    for number in range({_FILES}):
        (site / f"p{{package}}" / f"m{{number}}.py").write_text("x = 1\\n" * 200)
(site / "mine.pth").write_text(str(root.parent))
"""


def measure(bench: Bench) -> list[Line]:
    """Seconds until a job starts: in a bare worktree, in one with links to what setup made, in one with a copy."""
    folder = Path(tempfile.mkdtemp(prefix="coord-bench-"))
    runners = Runners()
    try:
        place = _Place(folder, runners)
        setup = f"{shlex.quote(sys.executable)} -c {shlex.quote(_MAKE)}"
        kinds: dict[str, dict[str, Any]] = {
            "bare": {},
            "linked": {"setup": setup, "share": [".venv"], "copy": [".env"]},
            "copied": {"setup": setup, "copy": [".env"]},
        }
        first = {name: place.attempt(keys) for name, keys in kinds.items()}
        sides: dict[str, Callable[[], float]] = {
            name: (lambda keys=keys: min(place.attempt(keys) for _ in range(_TIMES)))  # type: ignore[misc]
            for name, keys in kinds.items()
        }
        taken = in_turns(bench.rounds, sides)
    finally:
        runners.close()
        shutil.rmtree(folder, ignore_errors=True)
    files = _PACKAGES * _FILES + _SCRIPTS + 2
    lines = [Line("start of a job in a bare worktree", "this machine", series(taken["bare"], "s"))]
    for name in ("linked", "copied"):
        over = [ready - bare for ready, bare in zip(taken[name], taken["bare"], strict=True)]
        what = f"beyond that, {files:,} files that setup made once, {name}"
        lines.append(Line(what, "this machine", series(over, "s"), goal=goals.READY if name == "linked" else None))
        what = f"beyond that, in the first task, which runs the setup, {name}"
        lines.append(Line(what, "this machine", series([first[name] - first["bare"]], "s")))
    return lines


class _NoRecords:
    """Records of merges that nobody asks for: no attempt here changes anything."""

    def write(self, claim: Claim, merge: Merge) -> bool:  # noqa: ARG002 - as it is called
        """Record nothing."""
        return True

    def unfinished(self, claim: Claim) -> Sequence[Merge]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def forget(self, claim: Claim) -> None:
        """Forget nothing."""


class _Place:
    """A repository, and a worker's part that runs attempts in worktrees of it."""

    def __init__(self, folder: Path, runners: Runners) -> None:
        self._folder = folder
        root = folder / "worktrees"
        worktrees = WorktreeStep(runners.launcher, _NoRecords(), root=root, keep=timedelta(0))
        steps = [ConditionalStep(lambda _: True, worktrees), ConditionalStep(lambda _: True, commit_worktree)]
        self._pipeline = Pipeline(steps, runners.runner_for)
        self._run_id = new_id()
        self._checkout = folder / "checkout"
        self._checkout.mkdir()
        (self._checkout / ".gitignore").write_text(".venv/\n.env\n")
        (self._checkout / "uv.lock").write_text("1")
        for number in range(500):
            (self._checkout / f"code{number}.py").write_text("x = 1\n" * 100)
        person = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
        for words in (["init", "-q"], ["add", "--all"], [*person, "commit", "-qm", "Begin"]):
            subprocess.run(["git", *words], cwd=self._checkout, check=True)
        (self._checkout / ".env").write_text("A=1\n")

    def attempt(self, keys: dict[str, Any]) -> float:
        """Seconds from the beginning of an attempt to the start of its job, which does nothing."""
        claim = self._claim({"kind": "git-worktree", **keys})
        started: list[float] = []
        with Control(
            scratch=self._folder / "scratch", on_start=lambda _: started.append(time.perf_counter())
        ) as control:
            began = time.perf_counter()
            result = self._pipeline.run(RunningAttempt(claim, claim, claim, control, is_ours=lambda: True))
        assert result.outcome is Outcome.COMPLETED, result.error
        return started[0] - began

    def _claim(self, checkout: dict[str, Any]) -> Claim:
        return Claim(
            task_id=new_id(),
            attempt=1,
            workspace_id="bench",
            project_id="bench",
            project="bench",
            run_id=self._run_id,
            session_id=None,
            key="task",
            title="Do nothing",
            work={"shell": "true"},
            input={},
            needs={},
            agent=None,
            timeout=None,
            stall_timeout=None,
            workdir=str(self._checkout),
            python_path=(),
            max_attempts=1,
            failures=0,
            deferrals=0,
            backoff={},
            repeatable=True,
            options={CHECKOUT_OPTION: checkout},
        )
