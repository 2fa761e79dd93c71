"""A claimed bundle while one thread works it off, and the watch that relieves it when a job turns out to be long."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from coordination.clock import monotonic
from coordination.domain.attempts import Claim
from coordination.flows.finish_attempts import Finish
from workers.held import Held, Note

log = structlog.get_logger()

RELIEF_AFTER = timedelta(milliseconds=100)
_LOOK = 0.05


class Bundle:
    """Claims of one project that wait for their turn, and ends that wait to be written. Thread-safe."""

    def __init__(self, claims: Sequence[Held]) -> None:
        self._lock = threading.Lock()
        self._pending = deque(claims)
        self._finished: list[tuple[Finish, list[Note]]] = []
        self._since: float | None = None  # when the job that runs now began
        self._written = monotonic()
        self._cost = 0.0  # seconds that the last write took, waiting included
        self.workspace_id = claims[0].claim.workspace_id
        self.project_id = claims[0].claim.project_id
        self.project = claims[0].claim.project

    def take(self) -> Held | None:
        """The next claim to run; None when there is none left."""
        with self._lock:
            if not self._pending:
                return None
            self._since = monotonic()
            return self._pending.popleft()

    def add(self, finish: Finish, notes: list[Note]) -> None:
        """One job is over."""
        with self._lock:
            self._since = None
            self._finished.append((finish, notes))

    def is_last(self) -> bool:
        """Whether nothing is left to run."""
        with self._lock:
            return not self._pending

    def due(self, every: timedelta) -> bool:
        """Whether ends should be written now although others wait to run: the last write was long ago.

        Where writes are slow (many threads, one writer) they come less often, or each would carry one task.
        """
        with self._lock:
            return monotonic() - self._written > max(every.total_seconds(), 2 * self._cost)

    def wrote(self, *, began: float) -> None:
        """A write that began at *began* (monotonic seconds) is over."""
        with self._lock:
            self._written = monotonic()
            self._cost = self._written - began

    def abandoned(self) -> list[Claim]:
        """Everything that is left, after an accident: no longer held, so that the leases run out."""
        with self._lock:
            left = [held.claim for held in self._pending] + [finish.claim for finish, _ in self._finished]
            self._pending.clear()
            self._finished.clear()
        return left

    def take_finished(self) -> list[tuple[Finish, list[Note]]]:
        """Ends to be written; they are the caller's now."""
        with self._lock:
            found, self._finished = self._finished, []
        return found

    def relieved(self) -> tuple[list[Held], list[tuple[Finish, list[Note]]]]:
        """When the job that runs now is long: what waits behind it, and the ends that wait with it; else nothing."""
        with self._lock:
            if self._since is None or monotonic() - self._since < RELIEF_AFTER.total_seconds():
                return [], []
            waiting, self._pending = list(self._pending), deque()
            found, self._finished = self._finished, []
        return waiting, found


class BundleWatch:
    """One thread that looks after bundles of more than one task; it sleeps while there is none."""

    def __init__(self, relieve: Callable[[Bundle], None]) -> None:
        self._relieve = relieve
        self._lock = threading.Lock()
        self._bundles: set[Bundle] = set()
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

    def add(self, bundle: Bundle) -> None:
        """Look after this bundle."""
        with self._lock:
            self._bundles.add(bundle)
            self._some.set()

    def remove(self, bundle: Bundle) -> None:
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
                    self._relieve(bundle)
                except Exception:
                    # A bulkhead: what could not be written is written by the lease's end at the latest.
                    log.exception("a bundle could not be relieved")
