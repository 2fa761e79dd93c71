"""The supervisor's record and what its heartbeat's age says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class SupervisorStatus(StrEnum):
    """Derived from the age of the heartbeat, never stored."""

    RUNNING = "running"
    STALE = "stale"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class StatusThresholds:
    """Ages of the heartbeat: younger than ``stale_after`` is running, younger than ``stopped_after`` is stale."""

    stale_after: timedelta = timedelta(minutes=10)
    stopped_after: timedelta = timedelta(minutes=60)


DEFAULT_LIFETIME = timedelta(hours=4)


def status_of(age: timedelta | None, thresholds: StatusThresholds) -> SupervisorStatus:
    """The status for a heartbeat of that *age*; None means there never was one."""
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
        """Since when its ticks fail, which is its last good one; None while they do not."""
        return self.heartbeat_at if self.error else None
