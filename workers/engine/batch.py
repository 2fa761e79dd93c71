"""A claimed bundle while one thread works it off, and the watch that relieves it when a job turns out to be long."""

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

RELIEF_AFTER = timedelta(milliseconds=100)
_LOOK = 0.05
_LARGE = 4_000_000  # bytes


class Batch:
    """Claims of one project that wait for their turn, and ends that wait to be written. Thread-safe."""

    def __init__(self, claims: Sequence[InFlightAttempt], *, sent: float, enqueued: bool = True) -> None:
        self._enqueued = enqueued  # it came with a message
        self.sent = sent  # when the claims were asked for, in monotonic seconds
        self._lock = threading.Lock()
        self._pending = deque(claims)
        self._finished: list[tuple[EndedAttempt, list[EventOrOutput]]] = []
        self._size = 0  # bytes, about, of the results that wait to be written
        self._taken: list[InFlightAttempt] = []
        self._since: float | None = None  # when the job began that runs alone now
        self._written = monotonic()
        self._cost = 0.0  # seconds that the last write took, waiting included
        first = claims[0].claim
        self.place = AttemptLocation(first.workspace_id, first.project_id, first.project)

    def take(self, most: int) -> list[InFlightAttempt]:
        """The next claims to run, at most *most*, in their order."""
        with self._lock:
            self._taken = [self._pending.popleft() for _ in range(min(most, len(self._pending)))]
            return self._taken

    def singled_out(self, *, begun: int, began: float) -> None:
        """The last of the *begun* jobs that were taken runs alone, since *began* (monotonic seconds); others wait."""
        with self._lock:
            self._since = began
            self._put_back(begun)

    def ran(self, count: int) -> None:
        """So many of those that were taken were dealt with; the others have not begun."""
        with self._lock:
            self._put_back(count)

    def _put_back(self, begun: int) -> None:
        self._pending.extendleft(reversed(self._taken[begun:]))
        self._taken = []

    def add(self, ended: EndedAttempt, notes: list[EventOrOutput], size: int = 0) -> None:
        """One job is over; what it returned and printed has about *size* bytes."""
        with self._lock:
            self._since = None
            self._size += size
            self._finished.append((ended, notes))

    def gave_away(self) -> None:
        """The job that ran alone was another process's; its end is written."""
        with self._lock:
            self._since = None

    def refills(self) -> bool:
        """Whether this is the first write since a message was taken: there is room for another one now."""
        with self._lock:
            enqueued, self._enqueued = self._enqueued, False
        return enqueued

    def is_last(self) -> bool:
        """Whether nothing is left to run."""
        with self._lock:
            return not self._pending

    def due(self, every: timedelta) -> bool:
        """Whether ends should be written now although others wait to run: the last write was long ago.

        Where writes are slow (many threads, one writer) they come less often, or each would carry one task. Large
        results are written at once: all of a write must fit into one statement.
        """
        with self._lock:
            return self._size > _LARGE or monotonic() - self._written > max(every.total_seconds(), 2 * self._cost)

    def wrote(self, *, began: float) -> None:
        """A write that began at *began* (monotonic seconds) is over."""
        with self._lock:
            self._written = monotonic()
            self._cost = self._written - began

    def abandoned(self) -> list[Claim]:
        """Everything that is left, after an accident: no longer held, so that the leases run out."""
        with self._lock:
            left = [held.claim for held in self._pending] + [ended.claim for ended, _ in self._finished]
            self._pending.clear()
            self._finished.clear()
        return left

    def take_finished(self) -> list[tuple[EndedAttempt, list[EventOrOutput]]]:
        """Ends to be written; they are the caller's now."""
        with self._lock:
            found, self._finished, self._size = self._finished, [], 0
        return found

    def relieved(self) -> tuple[list[InFlightAttempt], list[tuple[EndedAttempt, list[EventOrOutput]]]] | None:
        """When the job that runs now is long: what waits behind it, and the ends that wait with it; else None."""
        with self._lock:
            if self._since is None or monotonic() - self._since < RELIEF_AFTER.total_seconds():
                return None
            waiting = list(self._pending)
            self._pending.clear()
            found, self._finished, self._size = self._finished, [], 0
        return waiting, found


class BatchWatch:
    """One thread that looks after bundles until they are worked off or relieved; it sleeps while there is none.

    *relieve* says whether a bundle needs no more looks: a job that runs for hours must not cost twenty a second.
    """

    def __init__(self, relieve: Callable[[Batch], bool]) -> None:
        self._relieve = relieve
        self._lock = threading.Lock()
        self._bundles: set[Batch] = set()
        self._some = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="coord-bundles", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._some.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def add(self, bundle: Batch) -> None:
        """Look after this bundle."""
        with self._lock:
            self._bundles.add(bundle)
            self._some.set()

    def remove(self, bundle: Batch) -> None:
        """It is worked off."""
        with self._lock:
            self._bundles.discard(bundle)
            if not self._bundles:
                self._some.clear()

    def _loop(self) -> None:
        while not self._ended.is_set():
            self._some.wait()
            self._ended.wait(_LOOK)
            with self._lock:
                found = list(self._bundles)
            for bundle in found:
                try:
                    if self._relieve(bundle):
                        self.remove(bundle)
                except Exception:
                    # A bulkhead: what could not be written is written by the lease's end at the latest.
                    log.exception("a bundle could not be relieved")
