"""The worker's own safety net: answers nudges, ticks projects that are due, hears cancels, rings again what was lost.

Beat only asks for the same earlier. With no beat at all, with two of them, or with every job slot taken for hours,
supervision goes on, because it needs neither a free slot nor a message.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections.abc import Callable
from datetime import timedelta

import redis
import structlog

from coordination import collector
from coordination.clock import monotonic
from coordination.errors import CoordinationError, DatabaseUnavailable, RedisUnavailable
from coordination.flows.tick_supervisor import REST, go_on
from coordination.ids import new_id
from coordination.machine import boot_id, host
from coordination.services import windows
from coordination.settings import client_url
from coordination.store.queries import fleet, projects, supervisors
from coordination.store.queries.supervisors import Begun
from coordination.store.volatile.nudges import CANCELS, NUDGES, wake_key
from workers import queues
from workers.clearing import Clearing
from workers.context import Context
from workers.messages import read_cancels, read_nudge
from workers.runners.base import StopReason
from workers.runners.process import end_attempt, end_worker

log = structlog.get_logger()

_LOST_RING = timedelta(seconds=2)
_POP_WAIT = 1
_RECONNECT = 1.0
_TIDY_EVERY = 60.0
_SWEEP_FOR = 1.0
_FOLLOWS = timedelta(milliseconds=500)


class Housekeeper:
    """Two threads: one pops nudges and ticks what is due, one listens for cancels."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._later: list[tuple[float, str, str]] = []
        self._following: set[tuple[str, str]] = set()  # projects whose tick follows a nudge
        self._lock = threading.Lock()
        self._next_sweep = 0.0
        self._next_tidy = monotonic() + _TIDY_EVERY
        self.clearing = Clearing(context)

    def start(self) -> None:
        """Start both threads; the first sweep comes at once, for what was committed while nobody worked."""
        for name, body in (("coord-housekeeping", self._keep_house), ("coord-cancels", self._hear_cancels)):
            thread = threading.Thread(target=body, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def request_stop(self) -> None:
        """Let both threads end after what they are at; ``stop`` waits for them."""
        if not self._ended.is_set():
            self._ended.set()
            # Not here: Redis may be away, and whoever drains has no time for that.
            threading.Thread(target=self._wake, name="coord-wake", daemon=True).start()
        self.clearing.request_stop()

    def _wake(self) -> None:
        """Let both hear at once that nothing is to be waited for."""
        with contextlib.suppress(RedisUnavailable):
            self._context.nudges.wake(self._context.worker_id)

    def stop(self) -> None:
        """End both threads."""
        self.request_stop()
        self.clearing.stop()
        for thread in self._threads:
            thread.join(timeout=_POP_WAIT + 5)

    def look_again(self, workspace_id: str, project_id: str, *, after: timedelta) -> None:
        """Tick this project then: a back-off ends there, and a sweep would be later."""
        with self._lock:
            heapq.heappush(self._later, (monotonic() + after.total_seconds() + 0.01, workspace_id, project_id))

    def answer(self, workspace_id: str, project_id: str) -> None:
        """A nudge: what has become ready is rung for at once; the tick, which has other duties too, follows.

        It follows in a moment, because the job that begins now needs this process more, and once for many nudges.
        """
        context = self._context
        with self._lock:
            follows = (workspace_id, project_id) in self._following
            self._following.add((workspace_id, project_id))
        if not follows:
            self.look_again(workspace_id, project_id, after=_FOLLOWS)
        try:
            with context.store.write() as tx:
                name = projects.name_of(tx, workspace_id, project_id)
                found = windows.fill(
                    tx, workspace_id, project_id, window=context.window(), bundle=self._bundles(project_id)
                )
        except DatabaseUnavailable as error:
            log.warning("nothing was rung for at once", project=project_id, why=error.message)
        else:
            context.doorbell.ring(workspace_id, name or project_id, found, bundle=self._bundles(project_id))

    def _bundles(self, project_id: str) -> Callable[[str], int]:
        return lambda kind: self._context.kinds.bundle(project_id, kind)

    def tick(self, workspace_id: str, project_id: str, *, every: timedelta | None = None) -> None:
        """Tick one project and ring, unless it was ticked within *every*; errors stay with the project."""
        try:
            with self._context.store.write() as tx:
                begun = supervisors.begin_tick(
                    tx, workspace_id, project_id, holder=self._holder(), lease=self._context.terms.ttl, every=every
                )
        except DatabaseUnavailable as error:
            log.warning("tick failed", project=project_id, why=error.message)
        else:
            if begun is not None:
                self._tick(begun)

    def _holder(self) -> str:
        return f"{self._context.worker_id}:{new_id()}"

    def _tick(self, begun: Begun) -> None:
        context, workspace_id, project_id = self._context, begun.workspace_id, begun.project_id
        try:
            self._end_what_expired_here(project_id)
            ticked = go_on(
                context.store,
                begun,
                window=context.window(),
                bundle=self._bundles(project_id),
                ring_again_after=self._ring_again_after(),
                lifetime=context.settings.supervisor_lifetime,
                rest=context.settings.tick,
                estimator=context.prices.estimator,
            )
            if ticked is None:
                return
            if ticked.rescued:
                log.warning("rescued tasks of lost workers", tasks=len(ticked.rescued))
            if ticked.healed:
                log.warning("slot counters were wrong and are healed", slots=ticked.healed)
            if ticked.ring:
                with context.store.read() as tx:
                    name = projects.name_of(tx, workspace_id, project_id)
                context.doorbell.ring(workspace_id, name or project_id, ticked.ring, bundle=self._bundles(project_id))
        except DatabaseUnavailable as error:
            log.warning("tick failed", project=project_id, why=error.message)
        except Exception:
            log.exception("tick failed", project=project_id)

    def _end_what_expired_here(self, project_id: str) -> None:
        """End jobs on this host whose worker can no longer do so (stopped, or killed with its warden).

        Before the tick queues their tasks again: two attempts must not work side by side.
        """
        with self._context.store.read() as tx:
            expired = fleet.expired_on_host(
                tx, project_id, host=host(), boot_id=boot_id(), silent_after=self._context.terms.ttl
            )
        for worker_id in sorted({worker for _, _, worker in expired if worker is not None} - {self._context.worker_id}):
            ended = end_worker(worker_id)
            log.warning("ended what a silent worker of this host had started", worker=worker_id, processes=ended)
        for task_id, number, _ in expired:
            ended = end_attempt(task_id, number)
            log.warning("ended what an attempt whose lease ran out had left running", task=task_id, processes=ended)

    def sweep(self) -> bool:
        """Declare silent workers dead, tick what is due, one after another for a second or so; whether more is due.

        Each is taken in the moment in which it is ticked, so that workers share what is due among them.
        """
        context = self._context
        with context.store.write() as tx:
            silent = fleet.stop_silent(tx, after=context.terms.ttl * 3)
        if silent:
            log.warning("workers have gone silent", workers=silent)
        end = monotonic() + _SWEEP_FOR
        while monotonic() < end and not self._ended.is_set():
            with context.store.write() as tx:
                begun = supervisors.begin_due_tick(
                    tx, every=context.settings.tick, holder=self._holder(), lease=context.terms.ttl
                )
            if begun is None:
                return False
            self._tick(begun)
        return True

    def _ring_again_after(self) -> timedelta:
        """Short when the queue is empty: then a ring that nobody answered was lost, or is parked behind a long job."""
        try:
            length = self._context.nudges.client.llen(queues.PREFIX + queues.JOBS)
        except redis.RedisError:
            return REST
        return _LOST_RING if length == 0 else REST

    def _keep_house(self) -> None:
        while not self._ended.is_set():
            self._guarded("housekeeping", self._once)

    def _once(self) -> None:
        now = monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + self._context.terms.sweep.total_seconds()
            if self.sweep():
                self._next_sweep = now  # after the nudges that have come meanwhile
            self.clearing.look()
        if now >= self._next_tidy:
            self._next_tidy = now + _TIDY_EVERY
            collector.tidy()
        with self._lock:
            due = []
            while self._later and self._later[0][0] <= monotonic():
                due.append(heapq.heappop(self._later)[1:])
            self._following -= {*due}
            nearest = self._later[0][0] if self._later else None
        for workspace_id, project_id in dict.fromkeys(due):
            self.tick(workspace_id, project_id)
        next_duty = min(self._next_sweep, nearest or self._next_sweep)
        wait = max(0.01, min(_POP_WAIT, next_duty - monotonic()))
        found = self._context.nudges.client.brpop([NUDGES, wake_key(self._context.worker_id)], timeout=wait)
        if found is not None:
            pair = read_nudge(str(found[1]))
            if pair is not None:
                self.answer(*pair)

    def _hear_cancels(self) -> None:
        while not self._ended.is_set():
            self._guarded("listening for cancels", self._listen)

    def _listen(self) -> None:
        url = self._context.settings.redis_url
        assert url is not None  # noqa: S101 - the app refuses to load without one
        client = redis.Redis.from_url(client_url(url), socket_connect_timeout=5, decode_responses=True)
        with client, client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(CANCELS)
            while not self._ended.is_set():
                message = channel.get_message(timeout=_POP_WAIT)
                if message is not None and message.get("type") == "message":
                    for key in read_cancels(message["data"]):
                        self._context.held.stop(key, StopReason.CANCELED)

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        """A bulkhead: the loop goes on whatever one round meets."""
        try:
            act()
        except redis.RedisError as error:
            log.warning("Redis is away", what=what, why=str(error))
            self._ended.wait(_RECONNECT)
        except CoordinationError as error:
            log.warning("a round failed", what=what, why=error.message)
            self._ended.wait(_RECONNECT)
        except Exception:
            log.exception("a round failed", what=what)
            self._ended.wait(_RECONNECT)
