"""Supervision by every worker: handle wakeups, tick due projects, receive cancels, enqueue lost tasks again.

Beat only requests the same earlier. Supervision works without beat, with several, and while all job slots are in use,
because it needs neither a slot nor a message.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import redis
import structlog

from coordination.base import gc_tuning, started_jobs
from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError, DatabaseUnavailable, RedisUnavailable
from coordination.base.host import boot_id, host
from coordination.base.ids import new_id
from coordination.flows.fleet.rescue_worker import rescue_silent_worker
from coordination.flows.fleet.tick_supervisor import AT_ONCE, REST, run_tick, tick_quiet
from coordination.services.tasks import dispatch_window
from coordination.settings import client_url
from coordination.store.queries.fleet import supervisors, workers
from coordination.store.queries.fleet.supervisors import TickStart
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.redis.wakeups import CANCELS, STOPS, WAKEUPS, wake_key
from workers.broker import queues
from workers.broker.messages import read_cancels, read_stops, read_wakeup
from workers.broker.signed_channel import refusals
from workers.context import Context, scratch_root
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
_TICK_DELAY = timedelta(milliseconds=500)  # of the tick after a wakeup
_WAKEUPS_AT_ONCE = 32


class SupervisorLoop:
    """Two threads: one handles wakeups and ticks due projects, one receives cancels."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._later: list[tuple[float, str, str]] = []
        self._scheduled: set[tuple[str, str]] = set()  # projects whose tick follows a wakeup
        self._lock = threading.Lock()
        self._next_sweep = 0.0
        self._next_tidy = monotonic() + _TIDY_EVERY
        self.cleanup = Cleanup(context)

    def start(self, *, cancels_only: bool = False) -> None:
        """Start both threads. The first sweep runs at once, for tasks that became ready while no worker ran."""
        duties = (
            ("coord-housekeeping", "housekeeping", self._once),
            ("coord-cancels", "listening for cancels", self._listen),
        )
        for name, what, act in duties[1:] if cancels_only else duties:
            thread = threading.Thread(target=self._repeat, args=(what, act), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def request_stop(self) -> None:
        """Let both threads end after their current round. ``stop`` waits for them."""
        if not self._ended.is_set():
            self._ended.set()
            # In a thread, because Redis may be unavailable and draining must not wait for it.
            waker = threading.Thread(target=self._wake, name="coord-wake", daemon=True)
            waker.start()
            self._threads.append(waker)
        self.cleanup.request_stop()

    def _wake(self) -> None:
        """Wake up both threads."""
        with contextlib.suppress(RedisUnavailable):
            self._context.wakeups.wake_worker(self._context.worker_id)

    def stop(self) -> None:
        """End all threads."""
        self.request_stop()
        self.cleanup.stop()
        for thread in self._threads:
            thread.join(timeout=_POP_WAIT + 5)

    def schedule_tick(self, workspace_id: str, project_id: str, *, after: timedelta) -> None:
        """Tick this project after a time, for example when a retry's back-off ends, because a sweep may be later."""
        with self._lock:
            heapq.heappush(self._later, (monotonic() + after.total_seconds() + 0.01, workspace_id, project_id))

    def handle_wakeups(self, wakeups: Sequence[tuple[str, str]]) -> None:
        """Enqueue ready tasks of (workspace, project) pairs at once, and schedule their ticks.

        The ticks are delayed because starting jobs need this process now, and so that many wakeups share one. All
        projects share a transaction; if it fails, each gets its own, so that none is affected by another.
        """
        pairs = list(dict.fromkeys(pair for pair in wakeups if self._context.serves(pair[0])))
        if not pairs:
            return
        with self._lock:
            new = [pair for pair in pairs if pair not in self._scheduled]
            self._scheduled.update(new)
        for pair in new:
            self.schedule_tick(*pair, after=_TICK_DELAY)
        try:
            filled = self._fill_windows(pairs)
        except DatabaseUnavailable as error:
            log.warning("no tasks were enqueued at once", projects=len(pairs), why=error.message)
        except Exception:
            if len(pairs) == 1:
                log.exception("no tasks were enqueued at once", project=pairs[0][1])
                return
            for pair in pairs:
                self.handle_wakeups([pair])
        else:
            for place, ready in filled:
                bundle = self._bundles(place.project_id)
                self._context.publisher.publish(place.workspace_id, place.project, ready, bundle=bundle)

    def _fill_windows(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[AttemptLocation, list[ReadyTask]]]:
        """Fill the dispatch windows of these projects. Return the tasks to enqueue in each."""
        window = self._context.window()  # may read the store itself
        with self._context.store.write() as tx:
            names: dict[str, str] = {}
            for workspace_id in sorted({workspace_id for workspace_id, _ in pairs}):
                names |= projects.names_of(tx, workspace_id, [project for its, project in pairs if its == workspace_id])
            places = [AttemptLocation(*pair, names.get(pair[1], "")) for pair in pairs]
            fill = partial(dispatch_window.fill_window, tx, window=window)
            return [(at, fill(at.workspace_id, at.project_id, bundle=self._bundles(at.project_id))) for at in places]

    def _bundles(self, project_id: str) -> Callable[[str], int]:
        return partial(self._context.duration_stats.bundle, project_id)

    def tick(self, workspace_id: str, project_id: str, *, every: timedelta | None = None) -> None:
        """Tick one project and enqueue its tasks, unless it was ticked within *every*. Logs errors."""
        if not self._context.serves(workspace_id):
            return
        try:
            with self._context.store.write() as tx:
                begun = supervisors.begin_tick(
                    tx, workspace_id, project_id, owner=self._holder(), lease=self._context.terms.ttl, every=every
                )
        except DatabaseUnavailable as error:
            log.warning("tick failed", project=project_id, why=error.message)
        else:
            if begun is not None:
                self._tick(begun)

    def tick_quiet(self, pairs: Sequence[tuple[str, str]] | None = None) -> set[tuple[str, str]]:
        """Tick the idle projects among *pairs*, or among all that are due. Return them.

        The other projects need full ticks, one project at a time.
        """
        context, done = self._context, set[tuple[str, str]]()
        again = self._enqueue_again_after()
        lifetime = context.settings.supervisor_lifetime
        try:
            if pairs is not None:
                for start in range(0, len(pairs), AT_ONCE):
                    ids = [project_id for _, project_id in pairs[start : start + AT_ONCE]]
                    done |= set(tick_quiet(context.store, projects=ids, enqueue_again_after=again, lifetime=lifetime))
                return done
            of_all = partial(tick_quiet, context.store, every=context.settings.tick, workspaces=context.workspaces)
            while page := of_all(enqueue_again_after=again, lifetime=lifetime):
                done |= set(page)
                if len(page) < AT_ONCE or self._ended.is_set():
                    break
        except DatabaseUnavailable as error:
            log.warning("ticks failed", why=error.message)
        except Exception:
            log.exception("ticks of idle projects failed")
        return done

    def _holder(self) -> str:
        return f"{self._context.worker_id}:{new_id()}"

    def _tick(self, begun: TickStart) -> None:
        context, workspace_id, project_id = self._context, begun.workspace_id, begun.project_id
        try:
            self._rescue_silent_workers(project_id)
            ticked = run_tick(
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
                log.warning("corrected slot counters", slots=ticked.healed)
            if ticked.ring:
                with context.store.read() as tx:
                    names = projects.names_of(tx, workspace_id, [project_id])
                bundle = self._bundles(project_id)
                context.publisher.publish(workspace_id, names.get(project_id, ""), ticked.ring, bundle=bundle)
        except DatabaseUnavailable as error:
            log.warning("tick failed", project=project_id, why=error.message)
        except Exception:
            log.exception("tick failed", project=project_id)

    def _rescue_silent_workers(self, project_id: str) -> None:
        """Rescue all tasks of silent workers (suspended, killed, disconnected), of every project.

        Their jobs on this host are ended before the tasks are queued: two attempts must not run at the same time.
        """
        context = self._context
        with context.store.read() as tx:
            expired = workers.list_expired_leases(tx, project_id, silent_after=context.terms.ttl)
        here = {lease.worker_id for lease in expired if (lease.host, lease.boot_id) == (host(), boot_id())}
        silent = {lease.worker_id for lease in expired if lease.silent}
        kept: set[tuple[str, int]] = set()
        if context.worker_id in silent:
            # This process itself was suspended: it keeps the leases that no other worker has taken.
            silent.remove(context.worker_id)
            kept.update(context.in_flight.keys())
            context.heartbeat.beat()
        for worker_id in sorted(silent):
            self._rescue(worker_id, is_here=worker_id in here)
        for lease in expired:
            if lease.worker_id in here - silent and (lease.task_id, lease.number) not in kept:
                ended = end_attempt(lease.task_id, lease.number)
                log.warning("ended processes of an attempt whose lease ran out", task=lease.task_id, processes=ended)

    def _rescue(self, worker_id: str, *, is_here: bool) -> None:
        context, scratch = self._context, scratch_root(self._context.settings)
        started = started_jobs.read(scratch, worker_id) if is_here else None

        def end_jobs() -> None:
            if is_here:
                ended = end_worker(worker_id)
                log.warning("ended processes of a silent worker of this host", worker=worker_id, processes=ended)

        if is_here:
            context.settling.settle_worker(scratch, worker_id, alive=True)  # before other tasks reserve that money
        rescue = partial(rescue_silent_worker, silent_after=context.terms.ttl, started=started, end_jobs=end_jobs)
        touched = context.store.transact(lambda tx: rescue(tx, worker_id))
        if touched and is_here:
            context.settling.settle_worker(scratch, worker_id, alive=True)  # reports since then
        if touched:
            log.warning("rescued the tasks of a silent worker", worker=worker_id, projects=len(touched))
        context.wake_projects(touched)

    def sweep(self) -> bool:
        """Declare silent workers dead and tick due projects. Return whether more are due.

        Idle projects are ticked first, many at a time, then the others, one by one for a second or so. Each is claimed
        only when it is ticked, so that workers share the due projects.
        """
        context = self._context
        with context.store.write() as tx:
            silent = workers.stop_silent(tx, after=context.terms.ttl * 3)
        if silent:
            log.warning("workers have gone silent", workers=silent)
        end = monotonic() + _SWEEP_FOR
        self.tick_quiet()
        every, lease, served = context.settings.tick, context.terms.ttl, context.workspaces
        while monotonic() < end and not self._ended.is_set():
            owner = self._holder()
            with context.store.write() as tx:
                begun = supervisors.begin_due_tick(tx, every=every, owner=owner, lease=lease, workspaces=served)
            if begun is None:
                return False
            self._tick(begun)
        return True

    def _enqueue_again_after(self) -> timedelta:
        """Return how long to wait for a message. Short if the queue is empty: it is then lost, or prefetched."""
        try:
            length = self._context.wakeups.client.llen(queues.PREFIX + queues.JOBS)
        except redis.RedisError:
            return REST
        return _LOST_MESSAGE if length == 0 else REST

    def _once(self) -> None:
        now = monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + self._context.terms.sweep.total_seconds()
            if self.sweep():
                self._next_sweep = now  # after wakeups that have arrived meanwhile
            self.cleanup.poll()
        if now >= self._next_tidy:
            self._next_tidy = now + _TIDY_EVERY
            gc_tuning.collect_cycles()
        with self._lock:
            due = []
            while self._later and self._later[0][0] <= monotonic():
                due.append(heapq.heappop(self._later)[1:])
            self._scheduled -= {*due}
            nearest = self._later[0][0] if self._later else None
        if due:
            pairs = list(dict.fromkeys(due))
            quiet = self.tick_quiet(pairs)
            for pair in pairs:
                if pair not in quiet:
                    self.tick(*pair)
        next_duty = min(self._next_sweep, nearest or self._next_sweep)
        wait = max(0.01, min(_POP_WAIT, next_duty - monotonic()))
        self._receive_wakeups(wait)

    def _receive_wakeups(self, wait: float) -> None:
        client, worker_id = self._context.wakeups.client, self._context.worker_id
        try:
            reply = client.brpop([WAKEUPS, wake_key(worker_id)], timeout=wait)
        except redis.ResponseError as error:
            if not self._context.wakeups.delete_wrong_keys(error, worker_id):
                raise
            log.warning("deleted a key that has the wrong type", key=WAKEUPS)
            return
        if reply is not None and reply[1]:  # an empty body only wakes this thread up
            bodies = [reply[1], *(client.rpop(WAKEUPS, _WAKEUPS_AT_ONCE - 1) or ())]
            if wakeups := [pair for body in bodies if (pair := read_wakeup(self._verify(WAKEUPS, body))) is not None]:
                self.handle_wakeups(wakeups)

    def _verify(self, place: str, body: Any, *, once: bool = False) -> str:
        """Return the text of a message without its signature, or an empty string if the signature is wrong."""
        checked = self._context.wakeups.signatures.check(place, str(body).encode(), once=once)
        if isinstance(checked, str):
            refusals.note(place, checked)
            return ""
        return checked.decode()

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
                    for task_id, number, at_once in read_stops(self._verify(STOPS, message["data"], once=True)):
                        self._context.in_flight.stop((task_id, number), STOPPED[at_once])
                    continue
                for key in read_cancels(self._verify(CANCELS, message["data"], once=True)):
                    self._context.in_flight.stop(key, StopReason.CANCELED)

    def _repeat(self, what: str, act: Callable[[], None]) -> None:
        """Call *act* again and again until the loop ends. Log its errors."""
        while not self._ended.is_set():
            try:
                act()
                continue
            except redis.RedisError as error:
                log.warning("Redis is unavailable", what=what, why=str(error))
            except CoordinationError as error:
                log.warning("a round failed", what=what, why=error.message)
            except Exception:
                log.exception("a round failed", what=what)
            self._ended.wait(_RECONNECT)
