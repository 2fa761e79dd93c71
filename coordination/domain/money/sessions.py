"""Sessions, which group runs and their costs, with any number of models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class SessionTarget(StrEnum):
    """The session of a run: the project's main session or one of its own."""

    MAIN = "main"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class Session:
    """A stored session. ``last_activity_at``: the time of its latest cost or run."""

    id: str
    workspace_id: str
    project_id: str
    agent: str | None
    purpose: str
    target: SessionTarget
    created_at: datetime
    last_activity_at: datetime
