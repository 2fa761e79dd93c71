"""The worker's own safety net: answers nudges, ticks projects that are due, hears cancels, rings again what was lost.

Beat only asks for the same earlier. With no beat at all, with two of them, or with every job slot taken for hours,
supervision goes on, because it needs neither a free slot nor a message.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import redis
import structlog

from coordination.base import gc_tuning, started_jobs
from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError, DatabaseUnavailable, RedisUnavailable
from coordination.base.host import boot_id, host
from coordination.base.ids import new_id
from coordination.flows.fleet.rescue_worker import rescue_silent_worker
from coordination.flows.fleet.tick_idle_supervisors import AT_ONCE, tick_quiet
from coordination.flows.fleet.tick_supervisor import REST, go_on
from coordination.services.tasks import dispatch_window
from coordination.settings import client_url
from coordination.store.queries.fleet import supervisors, workers
from coordination.store.queries.fleet.supervisors import TickStart
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.redis.wakeups import CANCELS, NUDGES, STOPS, wake_key
from workers.broker import queues
from workers.broker.messages import read_cancels, read_nudge, read_stops
from workers.broker.signed_channel import refusals
from workers.context import Context, scratch_of
from workers.leases.in_flight import AttemptLocation
from workers.maintenance.cleanup import Cleanup
from workers.runners.base import STOPPED, StopReason
from workers.runners.process import end_attempt, end_worker

log = structlog.get_logger()

_LOST_MESSAGE = timedelta(seconds=2)
_POP_WAIT = 1
_RECONNECT = 1.0
_TIDY_EVERY = 60.0
_SWEEP_FOR = 1.0
_FOLLOWS = timedelta(milliseconds=500)
_NUDGES_AT_ONCE = 32


class SupervisorLoop:
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
        self.clearing = Cleanup(context)

    def start(self, *, cancels_only: bool = False) -> None:
        """Start both threads; the first sweep comes at once, for what was committed while nobody worked."""
        duties = (("coord-housekeeping", self._keep_house), ("coord-cancels", self._hear_cancels))
        for name, body in duties[1:] if cancels_only else duties:
            thread = threading.Thread(target=body, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def request_stop(self) -> None:
        """Let both threads end after what they are at; ``stop`` waits for them."""
        if not self._ended.is_set():
            self._ended.set()
            # Not here: Redis may be away, and whoever drains has no time for that.
            waker = threading.Thread(target=self._wake, name="coord-wake", daemon=True)
            waker.start()
            self._threads.append(waker)
        self.clearing.request_stop()

    def _wake(self) -> None:
        """Let both hear at once that nothing is to be waited for."""
        with contextlib.suppress(RedisUnavailable):
            self._context.nudges.wake(self._context.worker_id)

    def stop(self) -> None:
        """End both threads, and the one that wakes them."""
        self.request_stop()
        self.clearing.stop()
        for thread in self._threads:
            thread.join(timeout=_POP_WAIT + 5)

    def look_again(self, workspace_id: str, project_id: str, *, after: timedelta) -> None:
        """Tick this project then: a back-off ends there, and a sweep would be later."""
        with self._lock:
            heapq.heappush(self._later, (monotonic() + after.total_seconds() + 0.01, workspace_id, project_id))

    def answer(self, nudged: Sequence[tuple[str, str]]) -> None:
        """Nudges of (workspace, project): what has become ready is rung for at once; ticks, with other duties, follow.

        They follow in a moment, because the jobs that begin now need this process more, and one for many nudges. All
        projects share a transaction; where that fails each has its own, so that none suffers from another.
        """
        nudged = [pair for pair in nudged if self._context.serves(pair[0])]  # others look after theirs
        if not nudged:
            return
        with self._lock:
            new = [pair for pair in dict.fromkeys(nudged) if pair not in self._following]
            self._following.update(new)
        for pair in new:
            self.look_again(*pair, after=_FOLLOWS)
        wanted = list(dict.fromkeys(nudged))
        try:
            filled = self._filled(wanted)
        except DatabaseUnavailable as error:
            log.warning("nothing was enqueued at once", projects=len(wanted), why=error.message)
        except Exception:
            if len(wanted) == 1:
                log.exception("nothing was enqueued at once", project=wanted[0][1])
                return
            for pair in wanted:
                self.answer([pair])
        else:
            for place, found in filled:
                bundle = self._bundles(place.project_id)
                self._context.publisher.publish(place.workspace_id, place.project, found, bundle=bundle)

    def _filled(self, wanted: Sequence[tuple[str, str]]) -> list[tuple[AttemptLocation, list[ReadyTask]]]:
        """Fill the windows of these projects; what is to be rung for now in each."""
        window = self._context.window()  # may look into the store itself
        with self._context.store.write() as tx:
            names: dict[str, str] = {}
            for workspace_id in sorted({workspace_id for workspace_id, _ in wanted}):
                names |= projects.names_of(tx, workspace_id, [one for its, one in wanted if its == workspace_id])
            return [
                (
                    AttemptLocation(workspace_id, project_id, names.get(project_id, "")),
                    dispatch_window.fill(tx, workspace_id, project_id, window=window, bundle=self._bundles(project_id)),
                )
                for workspace_id, project_id in wanted
            ]

    def _bundles(self, project_id: str) -> Callable[[str], int]:
        return lambda kind: self._context.kinds.bundle(project_id, kind)

    def tick(self, workspace_id: str, project_id: str, *, every: timedelta | None = None) -> None:
        """Tick one project and ring, unless it was ticked within *every*; errors stay with the project."""
        if not self._context.serves(workspace_id):
            return
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

    def tick_quiet(self, wanted: Sequence[tuple[str, str]] | None = None) -> set[tuple[str, str]]:
        """Tick those of *wanted*, or of all that are due, that have nothing to do; which these were.

        What cannot be done here is left to full ticks, one project at a time.
        """
        context, done = self._context, set[tuple[str, str]]()
        again = self._enqueue_again_after()
        lifetime = context.settings.supervisor_lifetime
        try:
            if wanted is not None:
                for start in range(0, len(wanted), AT_ONCE):
                    ids = [project_id for _, project_id in wanted[start : start + AT_ONCE]]
                    done |= set(tick_quiet(context.store, projects=ids, enqueue_again_after=again, lifetime=lifetime))
                return done
            every = context.settings.tick
            served = context.workspaces
            while found := tick_quiet(
                context.store, every=every, workspaces=served, enqueue_again_after=again, lifetime=lifetime
            ):
                done |= set(found)
                if len(found) < AT_ONCE or self._ended.is_set():
                    break
        except DatabaseUnavailable as error:
            log.warning("ticks failed", why=error.message)
        except Exception:
            log.exception("ticks failed that had nothing to do")
        return done

    def _holder(self) -> str:
        return f"{self._context.worker_id}:{new_id()}"

    def _tick(self, begun: TickStart) -> None:
        context, workspace_id, project_id = self._context, begun.workspace_id, begun.project_id
        try:
            self._rescue_of_silent_workers(project_id)
            ticked = go_on(
                context.store,
                begun,
                window=context.window(),
                bundle=self._bundles(project_id),
                enqueue_again_after=self._enqueue_again_after(),
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
                    names = projects.names_of(tx, workspace_id, [project_id])
                bundle = self._bundles(project_id)
                context.publisher.publish(workspace_id, names.get(project_id, ""), ticked.ring, bundle=bundle)
        except DatabaseUnavailable as error:
            log.warning("tick failed", project=project_id, why=error.message)
        except Exception:
            log.exception("tick failed", project=project_id)

    def _rescue_of_silent_workers(self, project_id: str) -> None:
        """Take from silent workers (stopped, killed, cut off) all that they hold, of every project, in one step.

        On this host their jobs are ended before any task is free: two attempts must not work side by side.
        """
        context = self._context
        with context.store.read() as tx:
            expired = workers.expired(tx, project_id, silent_after=context.terms.ttl)
        here = {one.worker_id for one in expired if (one.host, one.boot_id) == (host(), boot_id())}
        silent = {one.worker_id for one in expired if one.silent}
        kept: set[tuple[str, int]] = set()
        if context.worker_id in silent:
            # This process was stopped itself, and its machine with it, perhaps: what nobody took is still its own.
            silent.remove(context.worker_id)
            kept.update(context.held.keys())
            context.heartbeat.beat()
        for worker_id in sorted(silent):
            self._rescue(worker_id, is_here=worker_id in here)
        for one in expired:
            if one.worker_id in here - silent and (one.task_id, one.number) not in kept:
                ended = end_attempt(one.task_id, one.number)
                log.warning(
                    "ended what an attempt whose lease ran out had left running", task=one.task_id, processes=ended
                )

    def _rescue(self, worker_id: str, *, is_here: bool) -> None:
        context = self._context
        started = started_jobs.read(scratch_of(context.settings), worker_id) if is_here else None

        def end_jobs() -> None:
            if is_here:
                ended = end_worker(worker_id)
                log.warning("ended what a silent worker of this host had started", worker=worker_id, processes=ended)

        scratch = scratch_of(context.settings)
        if is_here:
            context.settling.of_worker(scratch, worker_id, lives=True)  # before others spend what is left
        touched = context.store.transact(
            lambda tx: rescue_silent_worker(
                tx, worker_id, silent_after=context.terms.ttl, started=started, end_jobs=end_jobs
            )
        )
        if touched and is_here:
            context.settling.of_worker(scratch, worker_id, lives=True)  # what was reported until its jobs were ended
        if touched:
            log.warning("rescued what a silent worker held", worker=worker_id, projects=len(touched))
        context.nudge(touched)

    def sweep(self) -> bool:
        """Declare silent workers dead, tick what is due; whether more is due.

        First those that have nothing to do, many at a time; then the others, one after another for a second or so. Each
        is taken in the moment in which it is ticked, so that workers share what is due among them.
        """
        context = self._context
        with context.store.write() as tx:
            silent = workers.stop_silent(tx, after=context.terms.ttl * 3)
        if silent:
            log.warning("workers have gone silent", workers=silent)
        end = monotonic() + _SWEEP_FOR
        self.tick_quiet()
        while monotonic() < end and not self._ended.is_set():
            with context.store.write() as tx:
                begun = supervisors.begin_due_tick(
                    tx,
                    every=context.settings.tick,
                    holder=self._holder(),
                    lease=context.terms.ttl,
                    workspaces=context.workspaces,
                )
            if begun is None:
                return False
            self._tick(begun)
        return True

    def _enqueue_again_after(self) -> timedelta:
        """Short when the queue is empty: then a ring that nobody answered was lost, or is parked behind a long job."""
        try:
            length = self._context.nudges.client.llen(queues.PREFIX + queues.JOBS)
        except redis.RedisError:
            return REST
        return _LOST_MESSAGE if length == 0 else REST

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
            gc_tuning.tidy()
        with self._lock:
            due = []
            while self._later and self._later[0][0] <= monotonic():
                due.append(heapq.heappop(self._later)[1:])
            self._following -= {*due}
            nearest = self._later[0][0] if self._later else None
        if due:
            wanted = list(dict.fromkeys(due))
            quiet = self.tick_quiet(wanted)
            for pair in wanted:
                if pair not in quiet:
                    self.tick(*pair)
        next_duty = min(self._next_sweep, nearest or self._next_sweep)
        wait = max(0.01, min(_POP_WAIT, next_duty - monotonic()))
        self._hear_nudges(wait)

    def _hear_nudges(self, wait: float) -> None:
        client, worker_id = self._context.nudges.client, self._context.worker_id
        try:
            found = client.brpop([NUDGES, wake_key(worker_id)], timeout=wait)
        except redis.ResponseError as error:
            if not self._context.nudges.mended(error, worker_id):
                raise
            log.warning("deleted a key that has the wrong type", key=NUDGES)
            return
        if found is not None and found[1]:  # else it is to wake us
            bodies = [found[1], *(client.rpop(NUDGES, _NUDGES_AT_ONCE - 1) or ())]
            if nudged := [each for body in bodies if (each := read_nudge(self._checked(NUDGES, body))) is not None]:
                self.answer(nudged)

    def _checked(self, place: str, body: Any, *, once: bool = False) -> str:
        """What a message says, without its signature; nothing when it has none that is right."""
        checked = self._context.nudges.signatures.check(place, str(body).encode(), once=once)
        if isinstance(checked, str):
            refusals.note(place, checked)
            return ""
        return checked.decode()

    def _hear_cancels(self) -> None:
        while not self._ended.is_set():
            self._guarded("listening for cancels", self._listen)

    def _listen(self) -> None:
        url = self._context.settings.redis_url
        assert url is not None  # noqa: S101 - no app is made without one
        client = redis.Redis.from_url(
            client_url(url), socket_connect_timeout=5, decode_responses=True, encoding_errors="replace"
        )
        with client, client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(CANCELS, STOPS)
            while not self._ended.is_set():
                message = channel.get_message(timeout=_POP_WAIT)
                if message is None or message.get("type") != "message":
                    continue
                if message["channel"] == STOPS:
                    for task_id, number, at_once in read_stops(self._checked(STOPS, message["data"], once=True)):
                        self._context.held.stop((task_id, number), STOPPED[at_once])
                    continue
                for key in read_cancels(self._checked(CANCELS, message["data"], once=True)):
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
