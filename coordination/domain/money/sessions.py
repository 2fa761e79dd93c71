"""A session groups costs (and later memory): long-lived, any number of models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class SessionTarget(StrEnum):
    """Whether work joins the project's ongoing session or gets its own."""

    MAIN = "main"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class Session:
    """One session as stored. ``last_activity_at`` follows its costs and runs."""

    id: str
    workspace_id: str
    project_id: str
    agent: str | None
    purpose: str
    target: SessionTarget
    created_at: datetime
    last_activity_at: datetime
