"""Runs a job in its worktree and commits its change."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.attempt.running import Proceed, RunningAttempt, is_unfinished, with_log_line
from workers.workspaces import changes, merged_changes
from workers.workspaces.preparation import claim_in_worktree


def commit_worktree(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """Run the job in the worktree; afterwards ``change.commit`` has everything that it changed."""
    change, claim = attempt.change, attempt.claim
    if change is None:
        return proceed(attempt)
    if change.result is not None:  # the job is done already
        return change.result
    worktree = change.worktree
    before = changes.record_state(worktree)
    inside = claim_in_worktree(worktree, claim)
    if change.briefing:
        inside = replace(inside, work={**inside.work, "prompt": f"{inside.work['prompt']}{change.briefing}"})
    news_of_merges = merged_changes.announce(worktree, attempt.control)
    with news_of_merges if claim.job_kind.asks_a_model else contextlib.nullcontext():
        result = change.result = proceed(replace(attempt, claim=inside))
    if is_unfinished(result):
        return result
    collected = changes.collect(worktree, before, claim)
    for remark in collected.remarks:
        result = with_log_line(result, remark)
    change.result, change.commit = result, collected.commit
    if change.merges is not None and not worktree.repository.contains(change.merges, collected.commit):
        change.saves_work = False
        why = "the merge was aborted"
        carry = {**result.carry_over, "feedback": f"{why}. Resolve the conflicts instead."}
        return replace(result, outcome=Outcome.FAILED, error=why, carry_over=carry)
    return result
