"""The supervisor's record, and its status by the age of its heartbeat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class SupervisorStatus(StrEnum):
    """The status of a supervisor, derived from the age of its heartbeat, never stored."""

    RUNNING = "running"
    STALE = "stale"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class StatusThresholds:
    """Heartbeats younger than ``stale_after`` mean running, younger than ``stopped_after`` mean stale."""

    stale_after: timedelta = timedelta(minutes=10)
    stopped_after: timedelta = timedelta(minutes=60)


DEFAULT_LIFETIME = timedelta(hours=4)


def status_of(age: timedelta | None, thresholds: StatusThresholds) -> SupervisorStatus:
    """Return the status for a heartbeat of that *age*; None: there never was one."""
    if age is None or age > thresholds.stopped_after:
        return SupervisorStatus.STOPPED
    if age >= thresholds.stale_after:
        return SupervisorStatus.STALE
    return SupervisorStatus.RUNNING


@dataclass(frozen=True, slots=True)
class Supervisor:
    """One project's supervisor as stored."""

    project_id: str
    workspace_id: str
    session_key: str
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    state: dict[str, Any]
    error: str | None
    age: timedelta

    @property
    def failing_since(self) -> datetime | None:
        """The time of the last successful tick if the ticks fail, else None."""
        return self.heartbeat_at if self.error else None
