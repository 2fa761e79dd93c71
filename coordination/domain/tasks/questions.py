"""A question that an agent stopped to ask."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

LONGEST = 20_000
"""Characters of a question or an answer."""

ANSWERS = "answers"
"""Where a task carries what its questions were answered, for its next attempt: a list of Exchanges."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question as stored; the answer is None while nobody has given one."""

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
    escalated: bool = False  # it is for the supervisor of the run, or a person
