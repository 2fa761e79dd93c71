"""What the worker knows of an attempt that more than a job belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from coordination.domain.jobs.merges import Merge
from coordination.domain.jobs.preparation import Database
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome


def goes_on(result: AttemptEnd) -> bool:
    """Return whether the job is not done: it did not complete."""
    return result.outcome is not Outcome.COMPLETED


class Lends(Protocol):
    """What the machine lends to one attempt. Raises Unavailable for what may be possible later, else Refused."""

    def ports(self, count: int) -> Sequence[int]:
        """Free ports, until the attempt ends."""

    def database(self, wanted: Database) -> str:
        """The URL of a copy of a database, until it is given back."""

    def give_back(self) -> None:
        """Drop the copies."""


class MergeRecords(Protocol):
    """Where merges are recorded: nowhere that a job can write. Raises DatabaseUnavailable."""

    def write(self, claim: Claim, merge: Merge) -> bool:
        """Record what the attempt is about to merge; False when it does not hold its task any more."""
        ...

    def unfinished(self, claim: Claim) -> Sequence[Merge]:
        """What earlier attempts recorded whose own end was not stored, the latest first."""
        ...

    def forget(self, claim: Claim) -> None:
        """The task's end is stored: its records are needed no more."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the worker knows of an attempt. *ours*: whether its lease still holds, as far as is known.

    *merges*: where it records what it merges.
    *lost*: asked when all its gates have passed, why it must not count (another variant was first), or None.
    *keeps*: keeps the files of a completed result that the task has to leave in a folder. *lends*: see Lends.
    """

    ours: Callable[[], bool]
    merges: MergeRecords
    lost: Callable[[], str | None] = lambda: None
    keeps: Callable[[str, AttemptEnd], AttemptEnd] = lambda _folder, result: result
    lends: Lends | None = None
