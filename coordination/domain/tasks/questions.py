"""Questions that agents stop to ask."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MAX_QUESTION_LENGTH = 20_000
"""The maximum number of characters of a question or an answer."""

ANSWERS_KEY = "answers"
"""The key in ``carried`` of the task's answered questions: a list of mappings (question, answer, by)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A stored question; its answer is None until it is answered."""

    id: str
    project_id: str
    run_id: str
    task_id: str
    key: str
    attempt: int
    question: str
    asked_at: datetime
    answer: str | None
    answered_by: str | None
    answered_at: datetime | None
    escalated: bool = False  # for the run's supervising agent, or a person
