"""Reads the answer of an agent in the review loop: an assessment, an analysis, an answer to a question."""

from __future__ import annotations

from coordination.domain.plans import review_loop
from coordination.domain.tasks.attempts import AttemptEnd
from coordination.domain.tasks.events import EventType
from workers.attempt.running import Proceed, RunningAttempt


def review_answer(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
    """Turn the agent's answer into the end of its attempt and write the decision to the event log."""
    review = review_loop.review(attempt.claim, proceed(attempt))
    if review.decision is not None:
        attempt.control.event(EventType.PROGRESS, review.decision)
    return review.result
