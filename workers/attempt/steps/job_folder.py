"""Makes a folder for a job without one, which exists until its gates have run and its outputs are kept."""

from __future__ import annotations

from dataclasses import replace

from coordination.domain.tasks.attempts import AttemptEnd
from workers.attempt.running import Proceed, RunningAttempt, is_in_worktree
from workers.runners.environment import Scratch


def make_job_folder(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """Make an empty folder for the job, if it has neither a folder nor a worktree, and delete it at the end."""
    if attempt.claim.workdir is not None or is_in_worktree(attempt.claim):
        return proceed(attempt)
    with Scratch(attempt.control.scratch, attempt.claim) as scratch:
        return proceed(replace(attempt, claim=replace(attempt.claim, workdir=scratch.make_folder())))
