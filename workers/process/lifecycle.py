"""A worker process's life, hung on Celery's signals: born, registered, ready, draining, handed back, gone.

One context per process: on threads and solo that is the worker itself, on prefork each child. Nothing is opened and
no thread is started before the fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any

import structlog
from celery import signals
from celery.app import app_or_default
from celery.worker import state
from sqlalchemy import Connection

from coordination.base import gc_tuning, started_jobs
from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError, DatabaseUnavailable
from coordination.base.host import boot_id, host, keep_private
from coordination.callers import check_process
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.settings import load_settings
from coordination.store import schema
from coordination.store.engine import is_transient
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import projects
from workers.app import close_home, redis_of
from workers.attempt.confinement import Confinement, confine_jobs
from workers.broker import queues
from workers.broker.publisher import CeleryPublisher
from workers.context import Context, make_context, scratch_of
from workers.engine.executor import Executor
from workers.engine.isolation import Isolation
from workers.maintenance.supervisor_loop import SupervisorLoop
from workers.process import restart
from workers.process.consumer_watchdog import ConsumerWatchdog
from workers.process.log_format import configure_logging
from workers.process.prefetch_recovery import PrefetchRecovery
from workers.runners import scratch_dirs
from workers.runners.base import StopReason
from workers.runners.orphan_reaper import is_running
from workers.runners.process import end_worker
from workers.runners.registry import Runners
from workers.runners.scratch_dirs import ScratchDir
from workers.shutdown import Shutdown, ShutdownOrders

log = structlog.get_logger()

_PATIENCE = timedelta(seconds=60)
_GUARD = 10.0
_LOOK = timedelta(milliseconds=50)


@dataclass(slots=True)
class WorkerProcess:
    """What this process is made of."""

    context: Context
    runners: Runners
    confinement: Confinement
    housekeeper: SupervisorLoop
    executor: Executor
    spare: PrefetchRecovery
    watchdog: ConsumerWatchdog
    restarting: bool = False


_process: WorkerProcess | None = None
_interruptible = True
_orders: ShutdownOrders | None = None
_worktree_folder: ScratchDir | None = None
_ended = threading.Event()
_lock = threading.Lock()


def process() -> WorkerProcess:
    """This process; begun at its first use where no signal did it before (an eager call, a pool we do not know)."""
    if _process is None:
        begin(f"worker@{os.getpid()}", slots=1)
    assert _process is not None  # noqa: S101 - just begun
    if not _interruptible:
        _let_jobs_be_interrupted()
    return _process


def _let_jobs_be_interrupted() -> None:
    """Replace the ignored SIGINT of a prefork child, which its jobs would inherit, by a handler, which they do not.

    The pool sets it after `worker_process_init`, so the child's first task is the first that can change it.
    """
    global _interruptible  # noqa: PLW0603
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave_to_the_parent)
        _interruptible = True


def _leave_to_the_parent(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a terminal interrupts the whole group, and the parent says what to do."""


def begin(name: str, *, slots: int, alone: bool = False) -> WorkerProcess:
    """Register this process and start its heartbeat and housekeeping. Waits for a database that is not there yet.

    *alone*: it runs one job that another worker has claimed, and looks after nothing else.
    """
    global _process  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _process is not None:
            return _process
        keep_private()  # again: Celery's own command is no door of ours
        settings = load_settings()
        close_home(settings)
        settings = replace(settings, redis_url=redis_of(settings))
        # Celery makes the worker's app the current one before it sends any signal, and in every child.
        publisher = partial(CeleryPublisher, app_or_default())
        context = make_context(settings, name=name, slots=slots, publisher=publisher)
        confinement = confine_jobs(context)
        _wait_for_schema(context)
        check_process(context.store, helper=alone)
        if (names := settings.served()) is not None:
            context.workspaces = context.store.transact(lambda tx: tuple(_ids_of(tx, names)))
            context.row["serves"] = list(names)
        with context.store.write() as tx:
            workers.register(tx, context.row)
            if alone:
                workers.drain(tx, context.worker_id)  # it takes nothing, and nobody counts on its slot
        runners = Runners(context.worker_id, sandbox=confinement.sandbox)
        housekeeper = SupervisorLoop(context)
        watchdog = ConsumerWatchdog(context, start_anew, lives=context.settings.watchdog_lives or 0)
        isolation = None if alone else Isolation(context)
        executor = Executor(context, runners, housekeeper, isolation=isolation)
        spare = PrefetchRecovery(context, free=executor.free, work_off=executor.work_off)
        _process = WorkerProcess(context, runners, confinement, housekeeper, executor, spare, watchdog)
        if not alone:
            _hand_back_of_the_dead(context)
            housekeeper.clearing.clear_folders()
        context.heartbeat.start()
        _process.executor.watch.start()
        housekeeper.start(cancels_only=alone)
        if not alone:
            spare.start()
        if _orders is not None:
            leaving = threading.Thread(target=_go_when_told, args=(_process, _orders), name="coord-drain", daemon=True)
            leaving.start()
    log.info("worker process begun", worker=context.worker_id, name=name, slots=slots)
    return _process


def _ids_of(tx: Connection, names: Sequence[str]) -> list[str]:
    """The ids of these workspaces, made where a worker is there before its first plan."""
    return [projects.workspace_named(tx, name) or projects.make_workspace(tx, name) for name in names]


def _hand_back_of_the_dead(context: Context) -> None:
    """What workers held that are certainly no more, after a crash and a restart, need not wait for its leases."""
    here = boot_id()
    if here == "unknown":
        return
    with context.store.read() as tx:
        # A process that has our own pid is an earlier life of ours, or one that died before us.
        dead = [
            worker_id
            for worker_id, pid in workers.on_host(tx, host=host(), boot_id=here)
            if worker_id != context.worker_id and (pid == os.getpid() or not is_running(pid))
        ]
        if context.store.dialect == "sqlite":
            # All that use one such file share its memory, so they share one kernel: what ran under another has ended
            # with it. Of a server's clients nothing proves that; two machines may well have one name.
            dead += workers.of_other_kernels(tx, kernel=here.partition("/")[0])
    for worker_id in dead:
        end_worker(worker_id)  # its warden did that, unless it died with it: nothing may go on once the tasks are free
        scratch = scratch_of(context.settings)
        context.settling.of_worker(scratch, worker_id)  # before others spend what is left
        started = started_jobs.read(scratch, worker_id)
        rescue = partial(rescue_worker, worker_id=worker_id, started=started)
        context.nudge(context.store.transact(rescue))
        log.warning("handed back what a dead worker of this host held", worker=worker_id)


def _wait_for_schema(context: Context) -> None:
    """The schema must fit. A database that is only starting is waited for; one that needs a person is not."""
    deadline = monotonic() + _PATIENCE.total_seconds()
    while True:
        try:
            schema.require(context.store)
        except DatabaseUnavailable as error:
            if not is_transient(error) or monotonic() > deadline:
                raise
            log.warning("waiting for the database", why=error.message)
        else:
            return
        time.sleep(0.5)


def _go_when_told(running: WorkerProcess, orders: ShutdownOrders) -> None:
    """Wait for the order to drain; then let jobs finish for the grace, and hand the rest back as queued, uncharged."""
    orders.drain.wait()
    if os.getpid() == orders.owner:
        Shutdown.wake()
    context = running.context
    deadline = monotonic() + context.settings.shutdown_grace.total_seconds()
    context.draining.set()
    # Heartbeats go on until the last job is released, and tell of cancels; nobody is supervised from here any more.
    running.housekeeper.request_stop()
    log.info("draining", running=context.held.count(), grace=context.settings.shutdown_grace.total_seconds())
    with contextlib.suppress(CoordinationError), context.store.write() as tx:
        workers.drain(tx, context.worker_id)
    while context.held.count() and monotonic() < deadline and not orders.hurry.wait(_LOOK):
        pass
    context.held.stop_all(StopReason.SHUTDOWN)
    # Runners end their jobs within the cancel grace; a process that hangs beyond that is ended here, and the
    # leases of whatever it still held run out.
    deadline = monotonic() + context.settings.cancel_grace.total_seconds() + _GUARD
    while context.held.count() and monotonic() < deadline:
        time.sleep(_LOOK.total_seconds())
    if context.held.count():
        log.error("jobs did not end in time; leaving them to the rescue", jobs=context.held.count())
        sys.stderr.flush()
        if running.restarting and not _told_to_end():
            restart.again(lives=running.watchdog.lives)
        os._exit(1)
    if os.getpid() == orders.owner and not running.restarting:
        _outlast_celery()


def _outlast_celery() -> None:
    """Celery says good-bye to its broker, without a limit when that does not answer. Nothing is held any more."""
    if not _ended.wait(_GUARD):
        log.warning("the worker has handed back everything, but its broker connection does not close")
        end()
        sys.stderr.flush()
        os._exit(0)


def start_anew() -> None:
    """Drain as for a shutdown, then begin a new life: for a worker that is deaf. Returns when it is told to end."""
    running = _process
    if running is None or _orders is None or running.context.draining.is_set():
        return
    running.restarting = True
    _orders.drain.give()
    running.context.draining.wait()
    while running.context.held.count():  # whoever drains ends this, one way or the other
        time.sleep(_LOOK.total_seconds())
    if _told_to_end():
        _outlast_celery()
        return
    end()
    restart.again(lives=running.watchdog.lives)


def _told_to_end() -> bool:
    """Whether somebody wants this worker to be gone: then it must not come back by itself."""
    return state.should_stop is not None or state.should_terminate is not None


def end() -> None:
    """The process ends in order: no heartbeat any more, its row closed, its children gone."""
    global _process
    with _lock:
        running, _process = _process, None
    if running is None:
        return
    context = running.context
    running.watchdog.stop()
    running.housekeeper.stop()
    running.spare.stop()
    _wait_for_jobs(context)
    running.executor.watch.stop()
    running.executor.close()
    running.runners.close()
    running.confinement.close()
    context.heartbeat.stop()
    with contextlib.suppress(CoordinationError), context.store.write() as tx:
        workers.stop(tx, context.worker_id)
    settled = not context.held.count() and context.settling.of_own(context.scratch, context.held.every)
    context.nudges.close()
    context.store.close()
    if settled:  # else whoever clears up after this process finds what was spent
        context.own.close()
    _ended.set()


def _wait_for_jobs(context: Context) -> None:
    """Those in threads of our own, which Celery's pool knows nothing of: who drains lets them finish, or stops them."""
    settings = context.settings
    patience = settings.shutdown_grace + settings.cancel_grace + 2 * timedelta(seconds=_GUARD)
    deadline = monotonic() + (patience.total_seconds() if context.draining.is_set() else 0)
    while context.held.count() and monotonic() < deadline:
        time.sleep(_LOOK.total_seconds())


def _refuse(error: CoordinationError) -> None:
    """A worker that cannot begin says so in one sentence and ends; Celery would only log it and go on."""
    sys.stderr.write(f"coord worker: {error.sentence()}\n")
    sys.stderr.flush()
    os._exit(2)


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def _on_init(**_: Any) -> None:
    global _orders  # noqa: PLW0603
    configure_logging()
    _orders = Shutdown.orders = ShutdownOrders()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _on_child(**_: Any) -> None:
    """A prefork child: its own engine, heartbeat and identity; the parent has none."""
    global _process, _interruptible
    if _orders is not None and os.getpid() == _orders.owner:
        return  # the solo pool says so too, in the process that has begun already
    _process, _interruptible = None, False
    try:
        begin(f"{os.uname().nodename}:{os.getpid()}", slots=1)
    except CoordinationError as error:
        _refuse(error)
    gc_tuning.settle()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _on_worker(sender: Any = None, **_: Any) -> None:
    """The worker is about to start its pool. On threads and solo this process is the one that runs jobs."""
    if "prefork" in _pool(sender) or "processes" in _pool(sender):
        _lodge_the_pool()
        return
    try:
        begin(str(sender.hostname), slots=1 if "solo" in _pool(sender) else int(sender.concurrency or 1))
    except CoordinationError as error:
        _refuse(error)


def _lodge_the_pool() -> None:
    """The pool's files go where they are found when this process is killed; by itself it would leave them for good."""
    global _worktree_folder  # noqa: PLW0603
    try:
        _worktree_folder = scratch_dirs.take(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)
    except CoordinationError as error:
        log.warning("the pool's files go where they would without us", why=error.message)
    else:
        multiprocessing.current_process()._config["tempdir"] = str(_worktree_folder.path)  # type: ignore[attr-defined]  # noqa: SLF001


def _pool(sender: Any) -> str:
    pool = getattr(sender, "pool_cls", None)
    return pool if isinstance(pool, str) else getattr(pool, "__module__", "")


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _on_ready(sender: Any = None, **_: Any) -> None:
    """Tell whoever started us that jobs can be taken; from now on it would be noticed if they were not."""
    if _process is not None and _orders is not None and queues.JOBS in sender.app.amqp.queues.consume_from:
        _process.watchdog.start()
    gc_tuning.settle()
    descriptor = load_settings().ready_fd
    # Once: Celery is ready again after each loss of its broker, and by then the number is that of something else.
    os.environ.pop("COORD_READY_FD", None)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, b"ready\n")
            os.close(descriptor)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutting_down(**_: Any) -> None:
    """A signal that came before our handlers were in place; later ones say so too, and once is enough."""
    if _orders is not None:
        _orders.drain.give()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: Any) -> None:
    end()
    if _worktree_folder is not None:
        _worktree_folder.close()


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _on_child_shutdown(**_: Any) -> None:
    end()
