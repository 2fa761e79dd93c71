"""Carries feedback about a failure to an agent's next attempt."""

from __future__ import annotations

from dataclasses import replace

from coordination.domain.agents.prompts import FEEDBACK
from coordination.domain.jobs.last_lines import format_last_lines, last_lines
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.attempt.running import Proceed, RunningAttempt

_FAILED = "It failed: "
_MOST_LINES = 40


def add_feedback(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """Add feedback to a failed result that has none, unless feedback of an earlier attempt's gates still applies."""
    result, claim = proceed(attempt), attempt.claim
    if result.outcome not in (Outcome.FAILED, Outcome.TIMED_OUT) or FEEDBACK in result.carry_over:
        return result
    before = claim.carried_over.get(FEEDBACK)
    if before and not str(before).startswith(_FAILED):
        return result
    printed = format_last_lines(last_lines(claim.work, result.output, result.log, most=_MOST_LINES))
    feedback = f"{_FAILED}{result.error or result.outcome}" + (f"\n{printed}" if printed else "")
    return replace(result, carry_over={**result.carry_over, FEEDBACK: feedback})
