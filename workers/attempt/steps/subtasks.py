"""Ends an attempt before its job when its assessment has subtasks to run first, or there is nothing to analyze."""

from __future__ import annotations

from coordination.domain.plans import review_loop
from coordination.domain.tasks.attempts import AttemptEnd
from coordination.domain.tasks.events import EventType
from workers.attempt.running import Proceed, RunningAttempt


def add_subtasks(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """Add the subtasks to the run; the task starts again when they have completed."""
    review = review_loop.before_job(attempt.claim)
    if review is None:
        return proceed(attempt)
    if review.decision is not None:
        attempt.control.event(EventType.PROGRESS, review.decision)
    return review.result
