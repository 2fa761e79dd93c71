"""The times of a worker's lease on a task, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from coordination.base.errors import SettingsError


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The times of a lease."""

    ttl: timedelta = timedelta(seconds=30)
    heartbeat: timedelta = timedelta(seconds=10)
    sweep: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        if self.heartbeat * 2 > self.ttl:
            hint = "Raise COORD_LEASE_TTL or lower COORD_LEASE_HEARTBEAT"
            raise SettingsError("The heartbeat must fit twice into the lease", hint=hint, field="COORD_LEASE_HEARTBEAT")
        if min(self.ttl, self.heartbeat, self.sweep) <= timedelta(0):
            raise SettingsError("Lease times must be longer than zero")

    @property
    def fence_after(self) -> timedelta:
        """How long after *sending* the last renewal a worker ends its jobs.

        A sixth of the lease is left for that, so that the jobs have ended before anybody else may claim their tasks.
        """
        return self.ttl * 5 / 6


MAX_LOSSES = 3
"""How often a worker process may die while it runs only this job, until the job is blamed and its task fails."""

MAX_DEFERRALS = 100
"""How often in a row a job may defer itself (exit status 75) before a person must let it continue."""
