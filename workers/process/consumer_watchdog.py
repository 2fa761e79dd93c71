"""Restart the worker when its consumer stops: slots are free and work is ready, but no message arrives.

The known cause is a consumer that receives no messages after its broker connection was lost, while heartbeats and the
supervisor loop continue. The remedy is a new process (see lifecycle).

Not a stopped consumer: full slots, an empty queue, tasks of paused projects, tasks that wait for a slot or for the end
of a canceled attempt, an unavailable Redis or database, a process that was itself suspended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import redis
import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.store.queries.fleet import workers
from workers.broker import queues
from workers.broker.signed_channel import refusals
from workers.context import Context

log = structlog.get_logger()

_SAMPLES = 12  # in the time after which a consumer counts as stopped
_LONGEST_PAUSE = 5.0
_MOST_DOUBLINGS = 6


@dataclass(frozen=True, slots=True)
class ConsumerSample:
    """The state of the consumer at one moment. ``waiting``: the number of ready tasks or messages, None if unknown."""

    at: float
    messages: int  # received so far
    has_free_slot: bool
    waiting: int | None


class ConsumerCheck:
    """Decides from a series of samples whether the consumer has stopped."""

    def __init__(self, *, patience: float, pause: float) -> None:
        """Stopped: after *patience* seconds without a message, with samples every *pause* seconds."""
        self._patience = patience
        self._longest_gap = 3 * pause + 1.0
        self._last: ConsumerSample | None = None
        self._since: float | None = None

    def silent_seconds(self, sample: ConsumerSample) -> float | None:
        """Return how long work has waited beside free slots without a message, once that is too long, else None."""
        last, self._last = self._last, sample
        waits = sample.has_free_slot and bool(sample.waiting)
        # After a gap, this process itself was suspended (SIGSTOP, a closed laptop) and could not receive anything.
        if last is None or not waits or sample.messages != last.messages or sample.at - last.at > self._longest_gap:
            self._since = sample.at if waits else None
            return None
        if self._since is None:
            self._since = sample.at
        silence = sample.at - self._since
        return silence if silence >= self._patience else None


class ConsumerWatchdog:
    """One thread that samples every few seconds and calls *restart* once, when the consumer has stopped."""

    def __init__(self, context: Context, restart: Callable[[], None], *, lives: int = 0) -> None:
        """*lives*: the restarts in a row without any message; each doubles the patience."""
        self._context = context
        self._restart = restart
        self._lives = lives
        self._messages = 0
        self._ended = threading.Event()
        self._restarting = False
        self._thread: threading.Thread | None = None
        patience = context.settings.watchdog * 2 ** min(lives, _MOST_DOUBLINGS)
        self._pause = min(_LONGEST_PAUSE, context.settings.watchdog.total_seconds() / _SAMPLES)
        self._patience = patience
        self._check = ConsumerCheck(patience=patience.total_seconds(), pause=self._pause)

    @property
    def lives(self) -> int:
        """The ``lives`` of the next process, if this one is restarted."""
        return 1 if self._messages else self._lives + 1

    def count_message(self) -> None:
        """Count a received message. Not locked: any change of the count is enough."""
        self._messages += 1

    def start(self) -> None:
        """Start the thread, unless the setting is 0."""
        if self._patience and self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="coord-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread. Does not wait for a restart in progress, which may itself wait for the caller."""
        self._ended.set()
        if self._thread is not None and not self._restarting:
            self._thread.join(timeout=5)

    def sample(self) -> ConsumerSample:
        """Return the current state of the slots, the queue and the store."""
        context = self._context
        # Counted first, so that later messages belong to the next sample. Refused messages were received as well.
        messages = self._messages + refusals.count
        has_free_slot = not context.draining.is_set() and context.in_flight.count() < context.slots
        return ConsumerSample(monotonic(), messages, has_free_slot, self._count_waiting() if has_free_slot else None)

    def _count_waiting(self) -> int | None:
        try:
            if messages := int(self._context.wakeups.client.llen(queues.PREFIX + queues.JOBS)):
                return messages
            with self._context.store.read() as tx:
                return workers.count_overdue(tx, after=self._patience, workspaces=self._context.workspaces)
        except (redis.RedisError, DatabaseUnavailable):
            return None

    def _loop(self) -> None:
        while not self._ended.wait(self._pause):
            try:
                sample = self.sample()
                silence = self._check.silent_seconds(sample)
            except Exception:
                log.exception("the watchdog could not check the consumer")
                continue
            if silence is not None and not self._ended.is_set():
                log.error(
                    "this worker receives no messages although work waits and slots are free; it restarts",
                    silent_seconds=round(silence, 1),
                    waiting=sample.waiting,
                    running=self._context.in_flight.count(),
                    slots=self._context.slots,
                    messages=sample.messages,
                )
                self._restarting = True
                self._restart()
                return
