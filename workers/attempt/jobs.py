"""What surrounds a job: its workspace before it, its gates after it, then the merge of what it changed."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from coordination.base.errors import DatabaseUnavailable, Refused
from coordination.domain.jobs.checkouts import FOLDER, Gate, WorkspaceKind, parse_gates, parse_workspace, surrounded
from coordination.domain.tasks.attempts import AttemptEnd, Claim
from workers.attempt import gates as gatekeeping
from workers.attempt.changed_files import Observed
from workers.attempt.surroundings import MergeRecords, Surroundings, goes_on
from workers.attempt.worktree_attempt import WorktreeAttempt
from workers.runners import environment, program
from workers.runners.base import Control, Runner
from workers.runners.registry import Runners
from workers.workspaces.merge_lock import tidy


class Jobs:
    """Runs claimed jobs with all that surrounds them; one instance serves all threads of a worker process.

    *worktrees*: the folder below which they are made. *keep*: how long those of failed attempts stay.
    """

    def __init__(self, runners: Runners, *, worktrees: Path, keep: timedelta) -> None:
        self._runners = runners
        self._worktrees = worktrees
        self._keep = keep
        self._lock = threading.Lock()
        self._merged: dict[tuple[str, int], tuple[Path, MergeRecords]] = {}

    def run(self, runner: Runner, claim: Claim, control: Control, around: Surroundings) -> AttemptEnd:
        """Run a claimed job with its *runner* to the end of its attempt."""
        observed = Observed(runner, self._runners.launcher) if "agent" in claim.work else runner
        if not surrounded(claim.options):
            result = observed.run(claim, control)
            return result if claim.workdir is None else around.keeps(claim.workdir, result)
        if (stopped := program.stopped_early(control)) is not None:
            return stopped
        try:
            workspace = parse_workspace(claim.options.get("workspace", FOLDER))
            gates = parse_gates(claim.options.get("gates"))
        except Refused as refused:
            return program.refused(refused.sentence())
        if workspace.kind is not WorkspaceKind.GIT_WORKTREE:
            return self._run_in_folder(observed, claim, control, gates, around)
        visit = WorktreeAttempt(
            claim,
            control,
            workspace,
            gates,
            runner=runner,
            launcher=self._runners.launcher,
            root=self._worktrees,
            keep=self._keep,
            around=around,
        )
        result = visit.run()
        if visit.merged is not None:
            with self._lock:
                self._merged[claim.task_id, claim.attempt] = (visit.merged, around.merges)
        return result

    def stored(self, claim: Claim, *, held: bool) -> None:
        """The end of the attempt was written, or (not *held*) refused: then what it merged must stay known."""
        with self._lock:
            merged = self._merged.pop((claim.task_id, claim.attempt), None)
        if merged is None or not held:
            return
        common, records = merged
        tidy(self._worktrees.resolve(), common)
        with contextlib.suppress(DatabaseUnavailable):  # a record of a completed task is never read
            records.forget(claim)

    def _run_in_folder(
        self, runner: Runner, claim: Claim, control: Control, gates: tuple[Gate, ...], around: Surroundings
    ) -> AttemptEnd:
        with environment.Scratch(control.scratch, claim) as scratch:
            folder = claim.workdir or scratch.make_folder()
            inside = replace(claim, workdir=folder)
            result = runner.run(inside, control)
            if goes_on(result):
                return result
            try:
                verdict = gatekeeping.judge(gates, inside, control, self._runners.launcher, folder)
            except (OSError, ValueError) as error:
                return gatekeeping.not_started(result, error)
            return around.keeps(folder, gatekeeping.applied(result, verdict, limit=control.output_limit))
