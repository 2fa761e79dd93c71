"""Runs a job in its worktree and commits what it changed there."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.attempt.running import Proceed, RunningAttempt, is_unfinished, with_log_line
from workers.runners.base import Control
from workers.workspaces import changes, merged_changes
from workers.workspaces.preparation import for_job


def commit_worktree(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """Give the job the worktree as its folder; afterwards ``change.commit`` holds all that the job made."""
    change, claim = attempt.change, attempt.claim
    if change is None:
        return proceed(attempt)
    if change.result is not None:  # there is nothing left for a job to do
        return change.result
    place, control = change.place, attempt.control
    before = changes.record_state(place)
    inside = for_job(place, claim)
    if change.briefing:
        inside = replace(inside, work={**inside.work, "prompt": f"{inside.work['prompt']}{change.briefing}"})
    told_of_merges = merged_changes.announce(place, control, Control(scratch=control.scratch))
    with told_of_merges if claim.job_kind.asks_a_model else contextlib.nullcontext():
        result = change.result = proceed(replace(attempt, claim=inside))
    if is_unfinished(result):
        return result
    collected = changes.collect(place, before, claim)
    for remark in collected.remarks:
        result = with_log_line(result, remark)
    change.result, change.commit = result, collected.commit
    if change.merges is not None and not place.repository.contains(change.merges, collected.commit):
        change.saves_work = False
        why = "the merge was given up"
        feedback = {"feedback": f"{why}. Resolve the conflicts instead."}
        return replace(result, outcome=Outcome.FAILED, error=why, carry_over={**result.carry_over, **feedback})
    return result
