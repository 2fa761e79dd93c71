"""The steps of the review loop around an agent's job: subtasks before it, and what its answer means after it."""

from __future__ import annotations

from coordination.domain.plans import review_loop
from coordination.domain.tasks.attempts import AttemptEnd
from coordination.domain.tasks.events import EventType
from workers.attempt.running import Proceed, RunningAttempt


def add_subtasks(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """End an attempt before its job when its assessment has subtasks to run first, or there is nothing to analyze.

    The task starts again when the subtasks have completed.
    """
    review = review_loop.before_job(attempt.claim)
    return proceed(attempt) if review is None else _end(attempt, review)


def review_answer(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """Turn the agent's answer (an assessment, an analysis, an answer to a question) into the end of its attempt."""
    return _end(attempt, review_loop.review(attempt.claim, proceed(attempt)))


def _end(attempt: RunningAttempt, review: review_loop.Review) -> AttemptEnd:
    """Write the decision to the event log and return the end."""
    if review.decision is not None:
        attempt.control.event(EventType.PROGRESS, review.decision)
    return review.result
