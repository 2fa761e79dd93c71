"""The in-flight attempts of this worker process: their leases, stop requests, and data that is not yet in the store.

Thread-safe and free of SQL. The heartbeat renews leases, the fence checks for expiry, listeners forward cancels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coordination.base.clock import monotonic
from coordination.domain.jobs.output import StoredChunk
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType
from workers.leases.usage_meter import UsageMeter
from workers.runners.base import Control, ProcessRecord, StopReason
from workers.runners.output import clean_text, decode, without_torn_end

MOST_NOTES = 1_000
"""The most events that are kept per attempt while the store is unavailable. Beyond that, the oldest are dropped."""

_WRITE_WAIT = 1.0  # seconds that an end waits for a write of its events

CHUNK = 16_384
"""Bytes of a chunk of output."""

YOUNG = 0.7
"""Seconds. The output of a job that ends before then is written only with its end."""

_MOST_WAITING = 8  # chunks of the end that wait to be written
_PIECE = 16  # bytes of overhead per piece


@dataclass(frozen=True, slots=True)
class AttemptLocation:
    """The project of attempts. All ends that are written in one transaction share it."""

    workspace_id: str
    project_id: str
    project: str


@dataclass(slots=True)
class PendingEvent:
    """An event of a running attempt that is not yet in the store. ``at``: when it happened, in monotonic seconds."""

    type: EventType
    payload: dict[str, Any]
    at: float


EventOrOutput = PendingEvent | StoredChunk
"""What running attempts add to the event log and to their stored output."""


@dataclass(slots=True)
class InFlightAttempt:
    """One attempt in this process. ``renewed_at``: when its last successful renewal (or its claim) was *sent*."""

    claim: Claim
    renewed_at: float
    control: Control | None = None
    wakeup_fd: int | None = None  # an eventfd that its batch polls while it has no control of its own
    process: ProcessRecord | None = None
    process_written: bool = False
    notes_in_write: int = 0  # the number of its first notes that are being written
    made_progress: bool = False  # since the last heartbeat
    notes: list[EventOrOutput] = field(default_factory=list)
    output_buffer: OutputBuffer | None = None
    usage_meter: UsageMeter | None = None
    stop_reason: StopReason | None = None  # may be set before its runner starts
    carry: dict[str, Any] = field(default_factory=dict)  # for its task's next attempt
    carry_written: bool = True
    is_ending: bool = False  # its end is being written: too late to stop it
    lapsed: bool = False  # its lease was not renewed in time: it is lost, whatever its job returns
    is_transferred: bool = False  # another process owns its lease

    @property
    def fence(self) -> tuple[str, int]:
        """The task id and the attempt number."""
        return self.claim.task_id, self.claim.attempt


@dataclass(frozen=True, slots=True)
class UnwrittenData:
    """Data of one running attempt for a transaction; the attempt keeps it until ``mark_written``.

    ``process`` and ``carry`` (for the task's next attempt) are None if there is nothing to write.
    """

    attempt: InFlightAttempt
    notes: list[EventOrOutput]
    process: ProcessRecord | None
    carry: dict[str, Any] | None


class InFlightAttempts:
    """All attempts of the process, by (task id, attempt). ``hurry``: set to have costs written at once."""

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self._lock = threading.Lock()
        self._write_finished = threading.Condition(self._lock)
        self._attempts: dict[tuple[str, int], InFlightAttempt] = {}

    def add(self, claims: Iterable[Claim], *, sent: float) -> list[InFlightAttempt]:
        """Add claims whose statement was sent at *sent* (monotonic seconds)."""
        added = [InFlightAttempt(claim, sent) for claim in claims]
        with self._lock:
            for attempt in added:
                self._attempts[attempt.fence] = attempt
        return added

    def drop(self, *claims: Claim) -> None:
        """Remove attempts whose end is written or whose lease is lost."""
        with self._lock:
            for claim in claims:
                self._attempts.pop((claim.task_id, claim.attempt), None)

    def keys(self) -> list[tuple[str, int]]:
        """Return the leases to renew."""
        with self._lock:
            return [key for key, attempt in self._attempts.items() if not attempt.is_transferred]

    def all_keys(self) -> list[tuple[str, int]]:
        """Return all attempts, including those whose lease another process owns."""
        with self._lock:
            return list(self._attempts)

    def count(self) -> int:
        with self._lock:
            return len(self._attempts)

    def attach(self, attempt: InFlightAttempt, control: Control) -> None:
        """Connect an attempt to its runner's control, and forward a stop request that was made earlier."""
        with self._lock:
            attempt.control = control
            reason = attempt.stop_reason
        if reason is not None:
            control.stop(reason)

    def stop(self, key: tuple[str, int], reason: StopReason) -> bool:
        """Request one attempt to stop. Return False when it is not here or already ending."""
        with self._lock:
            attempt = self._attempts.get(key)
            if attempt is None or attempt.is_ending:
                return False
            attempt.stop_reason = reason
            control = attempt.control
            if control is None and attempt.wakeup_fd is not None:
                os.eventfd_write(attempt.wakeup_fd, 1)
        if control is not None:
            control.stop(reason)
        return True

    def watch(self, batch: Iterable[InFlightAttempt], wakeup_fd: int) -> None:
        """Make *wakeup_fd* readable when an attempt of *batch* is requested to stop."""
        with self._lock:
            for attempt in batch:
                attempt.wakeup_fd = wakeup_fd
                if attempt.stop_reason is not None:
                    os.eventfd_write(wakeup_fd, 1)

    def begin_end(self, attempt: InFlightAttempt) -> list[EventOrOutput]:
        """Return the unwritten events and output of an attempt, to be written with its end.

        Waits a moment for a write in progress, after which events may be written twice rather than lost.
        """
        with self._lock:
            attempt.is_ending = True
            self._write_finished.wait_for(lambda: not attempt.notes_in_write, _WRITE_WAIT)
            notes, attempt.notes = attempt.notes, []
        return notes if attempt.output_buffer is None else [*notes, *attempt.output_buffer.drain()]

    def stop_all(self, reason: StopReason) -> None:
        for key in self.all_keys():
            self.stop(key, reason)

    def transfer(self, attempt: InFlightAttempt, control: Control) -> None:
        """Leave the lease to another process. Stop requests reach it through *control*, including an earlier one."""
        with self._lock:
            attempt.is_transferred = True
        self.attach(attempt, control)

    def record_renewal(self, key: tuple[str, int], *, sent: float, ttl: timedelta) -> bool:
        """Record a renewal by a statement sent at *sent*. Return False when it came too late to count."""
        with self._lock:
            attempt = self._attempts.get(key)
            if attempt is None:
                return True
            attempt.lapsed = attempt.lapsed or sent - attempt.renewed_at > ttl.total_seconds()
            attempt.renewed_at = max(attempt.renewed_at, sent)
            return not attempt.lapsed

    def has_lapsed(self, attempt: InFlightAttempt, ttl: timedelta) -> bool:
        """Return whether the lease of the attempt has ever run out."""
        with self._lock:
            return attempt.lapsed or monotonic() - attempt.renewed_at > ttl.total_seconds()

    def overdue(self, limit: timedelta) -> list[tuple[str, int]]:
        """Return attempts whose lease may run out soon because no renewal succeeded for *limit*."""
        oldest = monotonic() - limit.total_seconds()
        with self._lock:
            return [
                key
                for key, attempt in self._attempts.items()
                if attempt.renewed_at < oldest and not attempt.is_transferred
            ]

    def collect_unwritten(self) -> list[UnwrittenData]:
        """Return the data to write, sorted by task, again until ``mark_written``. ``finish_write`` must follow."""
        now = monotonic()
        unwritten = []
        with self._lock:
            for _, attempt in sorted(self._attempts.items()):
                if attempt.is_ending:
                    continue
                output = [] if attempt.output_buffer is None else attempt.output_buffer.due(now)
                process = None if attempt.process_written else attempt.process
                carry = None if attempt.carry_written else dict(attempt.carry)
                data = UnwrittenData(attempt, [*attempt.notes, *output], process, carry)
                if data.notes or process is not None or carry is not None:
                    attempt.notes_in_write = len(attempt.notes)
                    unwritten.append(data)
        return unwritten

    def mark_written(self, batch: Sequence[UnwrittenData]) -> None:
        """Forget data that is in the store or that the store refuses."""
        with self._lock:
            for data in batch:
                attempt = data.attempt
                del attempt.notes[: attempt.notes_in_write]
                attempt.notes_in_write = 0
                if attempt.output_buffer is not None:
                    attempt.output_buffer.mark_written([item for item in data.notes if isinstance(item, StoredChunk)])
                attempt.process_written |= data.process is not None
                if data.carry is not None:
                    attempt.carry_written = attempt.carry == data.carry

    def finish_write(self, batch: Sequence[UnwrittenData]) -> None:
        """End a write. What it did not write is collected again."""
        with self._lock:
            for data in batch:
                data.attempt.notes_in_write = 0
            self._write_finished.notify_all()

    def note(
        self, attempt: InFlightAttempt, type_: EventType, payload: dict[str, Any], *, at: float | None = None
    ) -> None:
        """Keep an event until the next write. It happened *at* (monotonic seconds), or now."""
        with self._lock:
            attempt.notes.append(PendingEvent(type_, payload, monotonic() if at is None else at))
            if len(attempt.notes) - attempt.notes_in_write > MOST_NOTES:
                del attempt.notes[attempt.notes_in_write]

    def add_carry(self, attempt: InFlightAttempt, carry: Mapping[str, Any]) -> None:
        """Keep data for the task's next attempt until the next write."""
        with self._lock:
            attempt.carry |= carry
            attempt.carry_written = False

    def usage_meters(self, *, all_: bool) -> list[tuple[Claim, UsageMeter]]:
        """Return the attempts with unwritten costs: those with a budget, or *all_*."""
        with self._lock:
            return [
                (attempt.claim, attempt.usage_meter)
                for attempt in self._attempts.values()
                if attempt.usage_meter is not None
                and attempt.usage_meter.has_unwritten
                and (all_ or attempt.claim.budgeted)
                and not attempt.is_ending
            ]

    def take_progress(self) -> list[tuple[str, int]]:
        """Return the attempts that made progress since the last call."""
        with self._lock:
            keys = [key for key, attempt in self._attempts.items() if attempt.made_progress]
            for key in keys:
                self._attempts[key].made_progress = False
        return keys

    def restore_progress(self, keys: Iterable[tuple[str, int]]) -> None:
        """Mark progress again that could not be written."""
        with self._lock:
            for key in keys:
                if (attempt := self._attempts.get(key)) is not None:
                    attempt.made_progress = True


@dataclass(slots=True)
class _GrowingChunk:
    """A chunk to which text is added. *number*: how many chunks were numbered before it, once it was handed out."""

    position: int
    pieces: list[tuple[str, bytearray]]
    size: int = 0
    weight: int = 0
    number: int | None = None
    written: int = 0


class OutputBuffer:
    """A bounded buffer of the output of one attempt until it is stored, which keeps the beginning and the end.

    Text is kept in chunks. Each chunk of the beginning has its own row; those of the end share a fixed number of rows
    in turn. The last chunk grows and is rewritten when it did, so a job that prints a line now and then needs few rows.
    Thread-safe.

    *began*: the start of the attempt, in monotonic seconds. *limit*: how many bytes are kept, about. *elsewhere*: the
    attempt's result contains the output too, so that a short job need not store it here.
    """

    def __init__(self, limit: int, *, began: float, elsewhere: bool = True) -> None:
        self._began = began
        self._elsewhere = elsewhere
        self._half = max(limit // 2 // CHUNK, 1)
        self._lock = threading.Lock()
        self._torn: dict[str, bytes] = {}
        self._growing = _GrowingChunk(0, [])
        self._waiting: list[_GrowingChunk] = []  # full, not handed out yet
        self._unwritten: dict[int, StoredChunk] = {}  # full and handed out, by slot: perhaps not in the store
        self._numbered = 0

    def feed(self, stream: str, data: bytes) -> None:
        """Add output. A character that is cut off at the end waits for its rest."""
        with self._lock:
            data = self._torn.pop(stream, b"") + data
            whole = without_torn_end(data)
            if len(whole) < len(data):
                self._torn[stream] = data[len(whole) :]
            self._add(stream, whole)

    def due(self, now: float) -> list[StoredChunk]:
        """Return what is to be written at *now* (monotonic seconds), again until ``mark_written``."""
        return [] if now - self._began < YOUNG else self._take()

    def drain(self) -> list[StoredChunk]:
        """Return what is to be written with the attempt's end: nothing if no chunk was and the result contains it."""
        with self._lock:
            if not self._numbered and self._elsewhere:
                return []
            torn, self._torn = self._torn, {}
            for stream, data in torn.items():
                self._add(stream, data)
        return self._take()

    def mark_written(self, chunks: list[StoredChunk]) -> None:
        """Forget chunks that are in the store."""
        with self._lock:
            for chunk in chunks:
                if self._unwritten.get(chunk.slot) is chunk:
                    del self._unwritten[chunk.slot]
                if chunk.position == self._growing.position:
                    self._growing.written = chunk.size

    def _take(self) -> list[StoredChunk]:
        with self._lock:
            for full in self._waiting:
                self._hand_out(full)
            self._waiting = []
            chunks = dict(self._unwritten)
            if self._growing.size > self._growing.written:
                if self._growing.number is None:
                    self._growing.number = self._next_number()
                chunk = self._chunk(self._growing)
                chunks[chunk.slot] = chunk
        return list(chunks.values())

    def _add(self, stream: str, data: bytes) -> None:
        while data:
            if self._growing.weight >= CHUNK:
                self._close()
            growing = self._growing
            room = CHUNK - growing.weight
            part = data if len(data) <= room else without_torn_end(data[:room]) or data[:4]
            data = data[len(part) :]
            if not growing.pieces or growing.pieces[-1][0] != stream:
                growing.pieces.append((stream, bytearray()))
                growing.weight += _PIECE
            growing.pieces[-1][1].extend(part)
            growing.size += len(part)
            growing.weight += len(part)

    def _close(self) -> None:
        full, self._growing = self._growing, _GrowingChunk(self._growing.position + self._growing.size, [])
        if full.number is not None:
            self._hand_out(full)
            return
        self._waiting.append(full)
        head = max(self._half - self._numbered, 0)  # how many of the waiting ones belong to the beginning
        if len(self._waiting) > head + _MOST_WAITING:
            del self._waiting[head]

    def _hand_out(self, full: _GrowingChunk) -> None:
        if full.number is None:
            full.number = self._next_number()
        chunk = self._chunk(full)
        self._unwritten[chunk.slot] = chunk

    def _next_number(self) -> int:
        self._numbered += 1
        return self._numbered - 1

    def _chunk(self, source: _GrowingChunk) -> StoredChunk:
        assert source.number is not None  # noqa: S101 - callers have set it
        beyond = source.number - self._half
        slot = source.number if beyond < 0 else self._half + beyond % self._half
        pieces = tuple((stream, clean_text(decode(bytes(data)))) for stream, data in source.pieces)
        return StoredChunk(slot, source.position, source.size, pieces)
