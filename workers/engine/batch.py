"""A batch of claims that one thread runs, and the watch that splits a batch when one of its jobs takes long."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from coordination.base.clock import monotonic
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import Claim
from workers.leases.in_flight import AttemptLocation, EventOrOutput, InFlightAttempt

log = structlog.get_logger()

SPLIT_AFTER = timedelta(milliseconds=100)
_EVERY = 0.05  # seconds
_LARGE = 4_000_000  # bytes

WaitingEnd = tuple[EndedAttempt, list[EventOrOutput]]
"""The end of an attempt that waits to be written, with the events and output to write before it."""


class Batch:
    """Claims of one project that wait to run, and ends that wait to be written. Thread-safe."""

    def __init__(self, claims: Sequence[InFlightAttempt], *, sent: float, enqueued: bool = True) -> None:
        self._enqueued = enqueued  # it came from a message, and no write has followed yet
        self.sent = sent  # when the claims were requested, in monotonic seconds
        self._lock = threading.Lock()
        self._pending = deque(claims)
        self._finished: list[WaitingEnd] = []
        self._size = 0  # of the results that wait to be written, in bytes, estimated
        self._taken: list[InFlightAttempt] = []
        self._alone_since: float | None = None  # when the job began that runs alone
        self._written_at = monotonic()
        self._write_seconds = 0.0  # of the last write, with the wait for its turn
        first = claims[0].claim
        self.place = AttemptLocation(first.workspace_id, first.project_id, first.project)

    def take(self, most: int) -> list[InFlightAttempt]:
        """Return the next claims to run, at most *most*, in order."""
        with self._lock:
            self._taken = [self._pending.popleft() for _ in range(min(most, len(self._pending)))]
            return self._taken

    def run_alone(self, *, begun: int, began: float) -> None:
        """Requeue all but the first *begun* taken jobs; the last of these runs alone since *began* (monotonic s)."""
        with self._lock:
            self._alone_since = began
            self._put_back(begun)

    def requeue_after(self, count: int) -> None:
        """Requeue the taken claims after the first *count*: they have not begun."""
        with self._lock:
            self._put_back(count)

    def _put_back(self, begun: int) -> None:
        self._pending.extendleft(reversed(self._taken[begun:]))
        self._taken = []

    def add(self, ended: EndedAttempt, notes: list[EventOrOutput], size: int = 0) -> None:
        """Add the end of a job to the next write. *size*: of its result and log, in bytes, estimated."""
        with self._lock:
            self._alone_since = None
            self._size += size
            self._finished.append((ended, notes))

    def end_elsewhere(self) -> None:
        """Note that another process ran the job and has written its end."""
        with self._lock:
            self._alone_since = None

    def take_refill(self) -> bool:
        """Return, once, whether a message was taken since the last write, so that the window has room for another."""
        with self._lock:
            enqueued, self._enqueued = self._enqueued, False
        return enqueued

    def is_last(self) -> bool:
        """Return whether no claim is left to run."""
        with self._lock:
            return not self._pending

    def is_write_due(self, every: timedelta) -> bool:
        """Return whether to write ends now, before the batch is done, because the last write was long ago.

        Slow writes (many threads, one writer) make this interval longer, or each write would carry one task. Large
        results are written at once: everything in a write must fit into one statement.
        """
        with self._lock:
            interval = max(every.total_seconds(), 2 * self._write_seconds)
            return self._size > _LARGE or monotonic() - self._written_at > interval

    def note_write(self, *, began: float) -> None:
        """Note that a write that began at *began* (monotonic seconds) has ended."""
        with self._lock:
            self._written_at = monotonic()
            self._write_seconds = self._written_at - began

    def abandon(self) -> list[Claim]:
        """Remove and return all claims after an error: their leases are left to expire."""
        with self._lock:
            claims = [waiting.claim for waiting in self._pending] + [ended.claim for ended, _ in self._finished]
            self._pending.clear()
            self._finished.clear()
        return claims

    def take_finished(self) -> list[WaitingEnd]:
        """Remove and return the ends that wait to be written."""
        with self._lock:
            finished, self._finished, self._size = self._finished, [], 0
        return finished

    def split(self) -> tuple[list[InFlightAttempt], list[WaitingEnd]] | None:
        """If the running job takes long, remove and return the claims behind it and the waiting ends; else None."""
        with self._lock:
            if self._alone_since is None or monotonic() - self._alone_since < SPLIT_AFTER.total_seconds():
                return None
            waiting = list(self._pending)
            self._pending.clear()
            finished, self._finished, self._size = self._finished, [], 0
        return waiting, finished


class BatchWatch:
    """A thread that checks running batches until they have ended or were split; it sleeps while there is none.

    *split* returns whether it has split the batch, which is then not checked again: a job that runs for hours must not
    cost twenty checks a second.
    """

    def __init__(self, split: Callable[[Batch], bool]) -> None:
        self._split = split
        self._lock = threading.Lock()
        self._batches: set[Batch] = set()
        self._has_batches = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="coord-batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._has_batches.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def watch(self, batch: Batch) -> None:
        with self._lock:
            self._batches.add(batch)
            self._has_batches.set()

    def remove(self, batch: Batch) -> None:
        with self._lock:
            self._batches.discard(batch)
            if not self._batches:
                self._has_batches.clear()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._has_batches.wait()
            self._stopped.wait(_EVERY)
            with self._lock:
                batches = list(self._batches)
            for batch in batches:
                try:
                    if self._split(batch):
                        self.remove(batch)
                except Exception:
                    # Keep the thread alive: attempts that were not written end with their leases at the latest.
                    log.exception("a batch could not be split")
