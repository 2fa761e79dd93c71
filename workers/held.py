"""What this worker process holds: its attempts, when each lease was last renewed, and the orders that reach them.

Thread-safe and free of SQL: the heartbeat renews, the fence watches the clock, listeners pass on cancels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coordination.clock import monotonic
from coordination.domain.attempts import Claim
from coordination.domain.events import EventType
from coordination.domain.output import Chunk
from workers.live import Live
from workers.purse import Purse
from workers.runners.base import Control, ProcessRecord, StopReason


@dataclass(frozen=True, slots=True)
class Place:
    """Where attempts belong; all ends that are written together are of one place."""

    workspace_id: str
    project_id: str
    project: str


@dataclass(slots=True)
class Note:
    """An event of a running attempt that waits to be written."""

    type: EventType
    payload: dict[str, Any]
    at: float


Said = Note | Chunk
"""What a running attempt has to say: events, and what it printed."""


@dataclass(slots=True)
class Held:
    """One attempt in this process. ``renewed`` is when its last successful renewal (or its claim) was *sent*."""

    claim: Claim
    renewed: float
    control: Control | None = None
    wake: int | None = None  # its batch listens here, while it has no control of its own
    process: ProcessRecord | None = None
    process_noted: bool = False
    moved: bool = False
    notes: list[Said] = field(default_factory=list)
    live: Live | None = None  # what it has printed
    purse: Purse | None = None  # what it has spent
    gone: StopReason | None = None  # told to stop before its runner had begun
    left: dict[str, Any] = field(default_factory=dict)  # for its task's next attempt
    left_noted: bool = True
    ending: bool = False  # its end is being written: orders come too late
    ahead: int | None = None  # it runs before it is claimed, on the heels of so many tasks that it needed


class HeldAttempts:
    """All attempts of the process, by (task id, attempt). ``hurry``: somebody waits until what was spent is written."""

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Held] = {}

    def add(self, claims: Iterable[Claim], *, sent: float) -> list[Held]:
        """Hold claims that were asked for at *sent* (monotonic seconds)."""
        added = [Held(claim, sent) for claim in claims]
        with self._lock:
            for held in added:
                self._held[held.claim.task_id, held.claim.attempt] = held
        return added

    def add_ahead(self, held: Held) -> None:
        """It runs ahead of its claim, and not that shortly: the fence looks after it, though it has no lease yet."""
        with self._lock:
            self._held[held.claim.task_id, held.claim.attempt] = held

    def claimed(self, held: Held, *, sent: float) -> None:
        """What ran ahead has its claim, and its lease."""
        with self._lock:
            held.ahead = None
            held.renewed = sent

    def drop(self, *claims: Claim) -> None:
        """Their ends are written, or they are not ours any more."""
        with self._lock:
            for claim in claims:
                self._held.pop((claim.task_id, claim.attempt), None)

    def keys(self) -> list[tuple[str, int]]:
        """What leases to renew."""
        with self._lock:
            return [key for key, held in self._held.items() if held.ahead is None]

    def count(self) -> int:
        """How many attempts are held."""
        with self._lock:
            return len(self._held)

    def attach(self, held: Held, control: Control) -> None:
        """The runner is about to start: from now on orders reach it directly; one that came before is passed on."""
        with self._lock:
            held.control = control
            waiting = held.gone
        if waiting is not None:
            control.stop(waiting)

    def stop(self, key: tuple[str, int], reason: StopReason) -> bool:
        """Ask one attempt to end; whether it is ours."""
        with self._lock:
            held = self._held.get(key)
            if held is None or held.ending:
                return False
            held.gone = reason
            control = held.control
            if control is None and held.wake is not None:
                os.eventfd_write(held.wake, 1)
        if control is not None:
            control.stop(reason)
        return True

    def watch(self, batch: Iterable[Held], wake: int) -> None:
        """These run together: an order for one of them makes *wake* readable."""
        with self._lock:
            for held in batch:
                held.wake = wake
                if held.gone is not None:
                    os.eventfd_write(wake, 1)

    def ending(self, held: Held) -> list[Said]:
        """The job is over and its end is about to be written; what was not written yet goes with it."""
        with self._lock:
            held.ending = True
            notes, held.notes = held.notes, []
        return notes if held.live is None else [*notes, *held.live.last()]

    def stop_all(self, reason: StopReason) -> None:
        """Ask every attempt to end."""
        for key in self.keys():
            self.stop(key, reason)

    def renewed(self, key: tuple[str, int], *, sent: float) -> None:
        """The lease was renewed by a statement sent at *sent*."""
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                held.renewed = max(held.renewed, sent)

    def overdue(self, limit: timedelta) -> list[tuple[str, int]]:
        """Attempts whose lease may run out soon because no renewal succeeded for *limit*."""
        oldest = monotonic() - limit.total_seconds()
        with self._lock:
            return [key for key, held in self._held.items() if held.renewed < oldest]

    def take_notes(self) -> list[tuple[Held, list[Said]]]:
        """What waits to be written. Events are the caller's now; output comes again until it is told ``wrote``."""
        now = monotonic()
        found: list[tuple[Held, list[Said]]] = []
        with self._lock:
            for held in self._held.values():
                if held.ahead is None and not held.ending:
                    said = held.notes if held.live is None else [*held.notes, *held.live.due(now)]
                    if said:
                        found.append((held, said))
                        held.notes = []
        return found

    def note(self, held: Held, type_: EventType, payload: dict[str, Any], *, at: float | None = None) -> None:
        """Keep an event until the next write; it happened *at* (monotonic seconds), or now."""
        with self._lock:
            held.notes.append(Note(type_, payload, monotonic() if at is None else at))

    def remember(self, held: Held, left: Mapping[str, Any]) -> None:
        """Keep what is left to the task's next attempt until the next write."""
        with self._lock:
            held.left |= left
            held.left_noted = False

    def take_left(self) -> list[tuple[Claim, dict[str, Any]]]:
        """All that those attempts leave to the next ones whose part of it has not been written yet."""
        with self._lock:
            known = [held for held in self._held.values() if not held.left_noted and held.ahead is None]
            for held in known:
                held.left_noted = True
            return [(held.claim, dict(held.left)) for held in known]

    def purses(self, *, all_: bool) -> list[tuple[Claim, Purse]]:
        """Attempts that have spent something that is not written yet: those with a budget, or *all_*."""
        with self._lock:
            return [
                (held.claim, held.purse)
                for held in self._held.values()
                if held.purse is not None
                and held.purse.changed
                and (all_ or held.claim.budgeted)
                and held.ahead is None
                and not held.ending
            ]

    def take_moved(self) -> list[tuple[str, int]]:
        """Attempts that showed progress since the last call."""
        with self._lock:
            found = [key for key, held in self._held.items() if held.moved]
            for held in self._held.values():
                held.moved = False
        return found

    def take_processes(self) -> list[tuple[Claim, ProcessRecord]]:
        """Process groups that have not been written down yet."""
        with self._lock:
            found = []
            for held in self._held.values():
                if held.process is not None and not held.process_noted and held.ahead is None:
                    held.process_noted = True
                    found.append((held.claim, held.process))
        return found
