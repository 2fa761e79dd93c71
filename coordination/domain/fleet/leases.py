"""How long a worker may hold a task without a sign of life, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from coordination.base.errors import SettingsError


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The three times of a lease, and the margin by which a cut-off worker stops its jobs before the lease ends."""

    ttl: timedelta = timedelta(seconds=30)
    heartbeat: timedelta = timedelta(seconds=10)
    sweep: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        if self.heartbeat * 2 > self.ttl:
            raise SettingsError(
                "The heartbeat must fit twice into the lease",
                hint="Raise COORD_LEASE_TTL or lower COORD_LEASE_HEARTBEAT",
                field="COORD_LEASE_HEARTBEAT",
            )
        if min(self.ttl, self.heartbeat, self.sweep) <= timedelta(0):
            raise SettingsError("Lease times must be longer than zero")

    @property
    def fence_after(self) -> timedelta:
        """How long after the last renewal was *sent* a worker ends its jobs itself: a sixth of the lease is left
        for ending them, so that the job is gone before anybody else may claim the task."""
        return self.ttl * 5 / 6


MAX_LOSSES = 3
"""Times that a job's worker process may die while it runs alone in it: then the job is to blame, and its task fails."""

MAX_DEFERRALS = 100
"""Times a job may ask for later (exit status 75) in a row before a person must let it go on: every wait has a limit."""
