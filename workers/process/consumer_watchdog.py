"""Notices that this worker has gone deaf: free slots, ready work in its queue, and no message arrives.

The known cause is a consumer that stops taking messages after its broker connection was lost; nothing else in the
process notices, for heartbeats and housekeeping go on. The remedy is a new process (see lifecycle).

What is *not* deafness: full slots, an empty queue, tasks of projects on hold, tasks that wait for a slot or for the
end of a canceled attempt, a Redis or a database that does not answer, a process that was itself stopped for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis
import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.store.queries.fleet import workers
from workers.broker import queues
from workers.broker.signed_channel import refusals
from workers.context import Context
from workers.process.deafness import ConsumerCheck, ConsumerSample

log = structlog.get_logger()

_LOOKS = 12  # in the time that makes a worker deaf
_LONGEST_PAUSE = 5.0
_MOST_DOUBLINGS = 6


class ConsumerWatchdog:
    """One thread that looks every few seconds and calls *restart* once, when the worker is deaf."""

    def __init__(self, context: Context, restart: Callable[[], None], *, lives: int = 0) -> None:
        """*lives*: how many lives before this one ended as deaf without hearing anything; each doubles the patience."""
        self._context = context
        self._restart = restart
        self._lives = lives
        self._heard = 0
        self._ended = threading.Event()
        self._restarting = False
        self._thread: threading.Thread | None = None
        patience = context.settings.watchdog * 2 ** min(lives, _MOST_DOUBLINGS)
        self._pause = min(_LONGEST_PAUSE, context.settings.watchdog.total_seconds() / _LOOKS)
        self._patience = patience
        self._judge = ConsumerCheck(patience=patience.total_seconds(), pause=self._pause)

    @property
    def lives(self) -> int:
        """What the next life should count, if this one ends as deaf."""
        return 1 if self._heard else self._lives + 1

    def heard(self) -> None:
        """A doorbell has arrived. Cheap: called for each; a count that races only has to change."""
        self._heard += 1

    def start(self) -> None:
        """Start looking, unless the setting is 0."""
        if self._patience and self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="coord-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more. Does not wait for a restart that is under way: that may itself wait for the caller."""
        self._ended.set()
        if self._thread is not None and not self._restarting:
            self._thread.join(timeout=5)

    def look(self) -> ConsumerSample:
        """One look at the slots, the queue and the store."""
        context = self._context
        # First: what arrives during the look is news for the next one. A message that is refused was heard as well.
        heard = self._heard + refusals.count
        free = not context.draining.is_set() and context.held.count() < context.slots
        return ConsumerSample(monotonic(), heard, free, self._waiting() if free else None)

    def _waiting(self) -> int | None:
        try:
            if messages := int(self._context.nudges.client.llen(queues.PREFIX + queues.JOBS)):
                return messages
            with self._context.store.read() as tx:
                return workers.unheard(tx, after=self._patience, workspaces=self._context.workspaces)
        except (redis.RedisError, DatabaseUnavailable):
            return None

    def _loop(self) -> None:
        while not self._ended.wait(self._pause):
            try:
                look = self.look()
                silence = self._judge.deaf_for(look)
            except Exception:
                log.exception("the watchdog could not look")  # a bulkhead: the next look must come
                continue
            if silence is not None and not self._ended.is_set():
                log.error(
                    "this worker hears no messages although work waits and slots are free; it starts anew",
                    silent_seconds=round(silence, 1),
                    waiting=look.waiting,
                    running=self._context.held.count(),
                    slots=self._context.slots,
                    heard=look.heard,
                )
                self._restarting = True
                self._restart()
                return
