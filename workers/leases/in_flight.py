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

from coordination.base.clock import monotonic
from coordination.domain.jobs.output import StoredChunk
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType
from workers.leases.output_buffer import OutputBuffer
from workers.leases.usage_meter import UsageMeter
from workers.runners.base import Control, ProcessRecord, StopReason


@dataclass(frozen=True, slots=True)
class AttemptLocation:
    """Where attempts belong; all ends that are written together are of one place."""

    workspace_id: str
    project_id: str
    project: str


@dataclass(slots=True)
class AttemptNote:
    """An event of a running attempt that waits to be written."""

    type: EventType
    payload: dict[str, Any]
    at: float


Said = AttemptNote | StoredChunk
"""What a running attempt has to say: events, and what it printed."""


@dataclass(slots=True)
class InFlightAttempt:
    """One attempt in this process. ``renewed`` is when its last successful renewal (or its claim) was *sent*."""

    claim: Claim
    renewed: float
    control: Control | None = None
    wake: int | None = None  # its batch listens here, while it has no control of its own
    process: ProcessRecord | None = None
    process_noted: bool = False
    in_flight: int = 0  # so many of its notes are being written
    moved: bool = False
    notes: list[Said] = field(default_factory=list)
    live: OutputBuffer | None = None  # what it has printed
    usage_meter: UsageMeter | None = None  # what it has spent
    gone: StopReason | None = None  # told to stop before its runner had begun
    left: dict[str, Any] = field(default_factory=dict)  # for its task's next attempt
    left_noted: bool = True
    ending: bool = False  # its end is being written: orders come too late
    lapsed: bool = False  # its lease was not renewed in time: whatever its job returns, it is lost
    lent: bool = False  # another process has its lease


@dataclass(frozen=True, slots=True)
class UnwrittenUsage:
    """What running attempts have to say, by the order of their tasks: for one write, and theirs until it is ``wrote``.

    ``left``: all that an attempt leaves to the next one of its task.
    """

    entries: list[InFlightAttempt] = field(default_factory=list)
    notes: list[tuple[InFlightAttempt, list[Said]]] = field(default_factory=list)
    processes: list[tuple[Claim, ProcessRecord]] = field(default_factory=list)
    left: list[tuple[Claim, dict[str, Any]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.entries)

    def by_workspace(self) -> list[tuple[str, list[tuple[Claim, list[Said]]]]]:
        """The notes of each workspace."""
        found: dict[str, list[tuple[Claim, list[Said]]]] = {}
        for held, said in self.notes:
            found.setdefault(held.claim.workspace_id, []).append((held.claim, said))
        return sorted(found.items())

    def apart(self) -> list[UnwrittenUsage]:
        """The same, each attempt's for itself."""
        return [
            UnwrittenUsage(
                [held],
                [one for one in self.notes if one[0] is held],
                [one for one in self.processes if one[0] is held.claim],
                [one for one in self.left if one[0] is held.claim],
            )
            for held in self.entries
        ]


MOST_NOTES = 1_000
"""Events of an attempt that wait while nothing can be written; of more, the oldest go."""

_IN_FLIGHT = 1.0  # seconds that an end waits to hear whether its events were written


class InFlightAttempts:
    """All attempts of the process, by (task id, attempt). ``hurry``: somebody waits until what was spent is written."""

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self._lock = threading.Lock()
        self._landed = threading.Condition(self._lock)
        self._held: dict[tuple[str, int], InFlightAttempt] = {}

    def add(self, claims: Iterable[Claim], *, sent: float) -> list[InFlightAttempt]:
        """Hold claims that were asked for at *sent* (monotonic seconds)."""
        added = [InFlightAttempt(claim, sent) for claim in claims]
        with self._lock:
            for held in added:
                self._held[held.claim.task_id, held.claim.attempt] = held
        return added

    def drop(self, *claims: Claim) -> None:
        """Their ends are written, or they are not ours any more."""
        with self._lock:
            for claim in claims:
                self._held.pop((claim.task_id, claim.attempt), None)

    def keys(self) -> list[tuple[str, int]]:
        """What leases to renew."""
        with self._lock:
            return [key for key, held in self._held.items() if not held.lent]

    def every(self) -> list[tuple[str, int]]:
        """All that are held."""
        with self._lock:
            return list(self._held)

    def count(self) -> int:
        """How many attempts are held."""
        with self._lock:
            return len(self._held)

    def attach(self, held: InFlightAttempt, control: Control) -> None:
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

    def watch(self, batch: Iterable[InFlightAttempt], wake: int) -> None:
        """These run together: an order for one of them makes *wake* readable."""
        with self._lock:
            for held in batch:
                held.wake = wake
                if held.gone is not None:
                    os.eventfd_write(wake, 1)

    def ending(self, held: InFlightAttempt) -> list[Said]:
        """The job is over and its end is about to be written; what was not written yet goes with it.

        What is being written is waited for, for a moment: rather written twice than lost.
        """
        with self._lock:
            held.ending = True
            self._landed.wait_for(lambda: not held.in_flight, _IN_FLIGHT)
            notes, held.notes = held.notes, []
        return notes if held.live is None else [*notes, *held.live.last()]

    def stop_all(self, reason: StopReason) -> None:
        """Ask every attempt to end."""
        with self._lock:
            known = list(self._held)
        for key in known:
            self.stop(key, reason)

    def lend(self, held: InFlightAttempt, control: Control) -> None:
        """Another process takes the lease; orders reach it by *control*, also one that came before."""
        with self._lock:
            held.lent, held.control = True, control
            waiting = held.gone
        if waiting is not None:
            control.stop(waiting)

    def renewed(self, key: tuple[str, int], *, sent: float, ttl: timedelta) -> bool:
        """The lease was renewed by a statement sent at *sent*; False when that was too late to count."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return True
            held.lapsed = held.lapsed or sent - held.renewed > ttl.total_seconds()
            held.renewed = max(held.renewed, sent)
            return not held.lapsed

    def has_lapsed(self, held: InFlightAttempt, ttl: timedelta) -> bool:
        """Whether its lease was ever not renewed in time."""
        with self._lock:
            return held.lapsed or monotonic() - held.renewed > ttl.total_seconds()

    def overdue(self, limit: timedelta) -> list[tuple[str, int]]:
        """Attempts whose lease may run out soon because no renewal succeeded for *limit*."""
        oldest = monotonic() - limit.total_seconds()
        with self._lock:
            return [key for key, held in self._held.items() if held.renewed < oldest and not held.lent]

    def unwritten(self) -> UnwrittenUsage:
        """What waits to be written, the same again until it is ``wrote``. ``landed`` is to be called in any case."""
        now = monotonic()
        found = UnwrittenUsage()
        with self._lock:
            for _, held in sorted(self._held.items()):
                if held.ending:
                    continue
                said = list(held.notes) if held.live is None else [*held.notes, *held.live.due(now)]
                process = None if held.process_noted else held.process
                if not said and process is None and held.left_noted:
                    continue
                found.entries.append(held)
                if said:
                    held.in_flight = len(held.notes)
                    found.notes.append((held, said))
                if process is not None:
                    found.processes.append((held.claim, process))
                if not held.left_noted:
                    found.left.append((held.claim, dict(held.left)))
        return found

    def wrote(self, written: UnwrittenUsage) -> None:
        """It is in the store, or can never be."""
        left = {id(claim): more for claim, more in written.left}
        with self._lock:
            for held, said in written.notes:
                del held.notes[: held.in_flight]
                held.in_flight = 0
                if held.live is not None:
                    held.live.wrote([one for one in said if isinstance(one, StoredChunk)])
            for held in written.entries:
                held.process_noted = held.process_noted or any(claim is held.claim for claim, _ in written.processes)
                if id(held.claim) in left:
                    held.left_noted = held.left == left[id(held.claim)]

    def landed(self, tried: UnwrittenUsage) -> None:
        """The write is over; what it did not write comes again."""
        with self._lock:
            for held in tried.entries:
                held.in_flight = 0
            self._landed.notify_all()

    def note(
        self, held: InFlightAttempt, type_: EventType, payload: dict[str, Any], *, at: float | None = None
    ) -> None:
        """Keep an event until the next write; it happened *at* (monotonic seconds), or now."""
        with self._lock:
            held.notes.append(AttemptNote(type_, payload, monotonic() if at is None else at))
            if len(held.notes) - held.in_flight > MOST_NOTES:
                del held.notes[held.in_flight]

    def remember(self, held: InFlightAttempt, left: Mapping[str, Any]) -> None:
        """Keep what is left to the task's next attempt until the next write."""
        with self._lock:
            held.left |= left
            held.left_noted = False

    def usage_meters(self, *, all_: bool) -> list[tuple[Claim, UsageMeter]]:
        """Attempts that have spent something that is not written yet: those with a budget, or *all_*."""
        with self._lock:
            return [
                (held.claim, held.usage_meter)
                for held in self._held.values()
                if held.usage_meter is not None
                and held.usage_meter.changed
                and (all_ or held.claim.budgeted)
                and not held.ending
            ]

    def take_moved(self) -> list[tuple[str, int]]:
        """Attempts that showed progress since the last call."""
        with self._lock:
            found = [key for key, held in self._held.items() if held.moved]
            for key in found:
                self._held[key].moved = False
        return found

    def moved_still(self, keys: Iterable[tuple[str, int]]) -> None:
        """Their progress could not be written: it comes again."""
        with self._lock:
            for key in keys:
                if (held := self._held.get(key)) is not None:
                    held.moved = True
