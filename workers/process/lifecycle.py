"""Start, drain and end a worker process, as handlers of Celery's signals.

There is one context per process: the worker itself on the threads and solo pools, each child on prefork. Nothing is
opened and no thread is started before the fork.
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
from workers.app import redis_url_of, secure_home
from workers.attempt.confinement import Confinement, confine_jobs
from workers.broker import queues
from workers.broker.publisher import CeleryPublisher
from workers.context import Context, make_context, scratch_root
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
_POLL = timedelta(milliseconds=50)


@dataclass(slots=True)
class WorkerProcess:
    """The parts of this process."""

    context: Context
    runners: Runners
    confinement: Confinement
    supervisor_loop: SupervisorLoop
    executor: Executor
    prefetch_recovery: PrefetchRecovery
    watchdog: ConsumerWatchdog
    restarting: bool = False


_process: WorkerProcess | None = None
_interruptible = True
_orders: ShutdownOrders | None = None
_pool_folder: ScratchDir | None = None
_ended = threading.Event()
_lock = threading.Lock()


def process() -> WorkerProcess:
    """Return this process. Starts it if no signal did (an eager call, an unknown pool)."""
    if _process is None:
        begin(f"worker@{os.getpid()}", slots=1)
    assert _process is not None  # noqa: S101 - just begun
    if not _interruptible:
        _install_interrupt_handler()
    return _process


def _install_interrupt_handler() -> None:
    """Replace the ignored SIGINT of a prefork child by a handler, because jobs would inherit SIG_IGN.

    The pool sets SIG_IGN after `worker_process_init`, so the child's first task is the first chance to change it.
    """
    global _interruptible  # noqa: PLW0603
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ignore_signal)
        _interruptible = True


def ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a terminal or a service manager signals the whole group, and the parent decides."""


def begin(name: str, *, slots: int, alone: bool = False) -> WorkerProcess:
    """Register this process and start its heartbeat and supervisor loop. Waits until the database is available.

    *alone*: it runs one job that another worker has claimed, and does no maintenance.
    """
    global _process  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _process is not None:
            return _process
        keep_private()  # again, for processes that Celery's own command started
        settings = load_settings()
        secure_home(settings)
        settings = replace(settings, redis_url=redis_url_of(settings))
        # Before it sends any signal, Celery makes the worker's app the current one, also in children.
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
                workers.drain(tx, context.worker_id)  # its slot is not available to other tasks
        runners = Runners(context.worker_id, sandbox=confinement.sandbox)
        supervisor_loop = SupervisorLoop(context)
        watchdog = ConsumerWatchdog(context, start_anew, lives=context.settings.watchdog_lives or 0)
        isolation = None if alone else Isolation(context)
        executor = Executor(context, runners, supervisor_loop, isolation=isolation)
        prefetch_recovery = PrefetchRecovery(context, free=executor.free_slots, work_off=executor.run_tasks)
        _process = WorkerProcess(context, runners, confinement, supervisor_loop, executor, prefetch_recovery, watchdog)
        if not alone:
            _rescue_dead_workers(context)
            supervisor_loop.cleanup.clear_folders()
        context.heartbeat.start()
        _process.executor.watch.start()
        supervisor_loop.start(cancels_only=alone)
        if not alone:
            prefetch_recovery.start()
        if _orders is not None:
            leaving = threading.Thread(
                target=_drain_on_order, args=(_process, _orders), name="coord-drain", daemon=True
            )
            leaving.start()
    log.info("worker process begun", worker=context.worker_id, name=name, slots=slots)
    return _process


def _ids_of(tx: Connection, names: Sequence[str]) -> list[str]:
    """Return the ids of these workspaces. Creates those that have no plan yet."""
    return [projects.find_workspace(tx, name) or projects.get_or_create_workspace(tx, name) for name in names]


def _rescue_dead_workers(context: Context) -> None:
    """Hand back the tasks of workers that have certainly ended, without waiting until their leases expire."""
    here = boot_id()
    if here == "unknown":
        return
    with context.store.read() as tx:
        # A worker row with our own pid is of a process that ended before this one started.
        dead = [
            worker_id
            for worker_id, pid in workers.on_host(tx, host=host(), boot_id=here)
            if worker_id != context.worker_id and (pid == os.getpid() or not is_running(pid))
        ]
        if context.store.dialect == "sqlite":
            # All users of a SQLite file share its memory and so one kernel: workers of another kernel have ended with
            # it. That is not certain for clients of a server, where two machines may have the same name.
            dead += workers.of_other_kernels(tx, kernel=here.partition("/")[0])
    for worker_id in dead:
        end_worker(worker_id)  # usually done by its warden: no job may run on once its task is queued again
        scratch = scratch_root(context.settings)
        context.settling.settle_worker(scratch, worker_id)  # before other tasks reserve that money
        started = started_jobs.read(scratch, worker_id)
        rescue = partial(rescue_worker, worker_id=worker_id, started=started)
        context.wake_projects(context.store.transact(rescue))
        log.warning("handed back the tasks of a dead worker of this host", worker=worker_id)


def _wait_for_schema(context: Context) -> None:
    """Check the schema. Waits for a database that is starting; raises when it needs a person."""
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


def _drain_on_order(running: WorkerProcess, orders: ShutdownOrders) -> None:
    """Wait for the order to drain. Then let jobs finish within the grace period, and hand the others back."""
    orders.drain.wait()
    if os.getpid() == orders.owner:
        Shutdown.wake()
    context = running.context
    deadline = monotonic() + context.settings.shutdown_grace.total_seconds()
    context.draining.set()
    # Heartbeats continue until the last job has ended, and stop canceled ones; this process supervises no project now.
    running.supervisor_loop.request_stop()
    log.info("draining", running=context.in_flight.count(), grace=context.settings.shutdown_grace.total_seconds())
    with contextlib.suppress(CoordinationError), context.store.write() as tx:
        workers.drain(tx, context.worker_id)
    while context.in_flight.count() and monotonic() < deadline and not orders.hurry.wait(_POLL):
        pass
    context.in_flight.stop_all(StopReason.SHUTDOWN)
    # Runners end their jobs within the cancel grace. If that fails, this process exits and the remaining leases expire.
    deadline = monotonic() + context.settings.cancel_grace.total_seconds() + _GUARD
    while context.in_flight.count() and monotonic() < deadline:
        time.sleep(_POLL.total_seconds())
    if context.in_flight.count():
        log.error("jobs did not end in time; other workers rescue them", jobs=context.in_flight.count())
        sys.stderr.flush()
        if running.restarting and not _shutdown_requested():
            restart.again(lives=running.watchdog.lives)
        os._exit(1)
    if os.getpid() == orders.owner and not running.restarting:
        _exit_without_celery()


def _exit_without_celery() -> None:
    """Exit if Celery hangs while it closes its broker connection, for which it has no time limit."""
    if not _ended.wait(_GUARD):
        log.warning("the worker has handed back everything, but its broker connection does not close")
        end()
        sys.stderr.flush()
        os._exit(0)


def start_anew() -> None:
    """Drain as for a shutdown, then restart the process. Returns only if a shutdown was requested meanwhile."""
    running = _process
    if running is None or _orders is None or running.context.draining.is_set():
        return
    running.restarting = True
    _orders.drain.set()
    running.context.draining.wait()
    while running.context.in_flight.count():  # the draining thread stops all jobs or exits
        time.sleep(_POLL.total_seconds())
    if _shutdown_requested():
        _exit_without_celery()
        return
    end()
    restart.again(lives=running.watchdog.lives)


def _shutdown_requested() -> bool:
    """Return whether Celery was asked to stop, so that this worker must not restart itself."""
    return state.should_stop is not None or state.should_terminate is not None


def end() -> None:
    """End the process in order: stop the threads, end children, mark its row as stopped."""
    global _process
    with _lock:
        running, _process = _process, None
    if running is None:
        return
    context = running.context
    running.watchdog.stop()
    running.supervisor_loop.stop()
    running.prefetch_recovery.stop()
    _wait_for_jobs(context)
    running.executor.watch.stop()
    running.executor.close()
    running.runners.close()
    running.confinement.close()
    context.heartbeat.stop()
    with contextlib.suppress(CoordinationError), context.store.write() as tx:
        workers.stop(tx, context.worker_id)
    settled = not context.in_flight.count() and context.settling.settle_own(context.scratch, context.in_flight.all_keys)
    context.wakeups.close()
    context.store.close()
    if settled:  # otherwise a cleanup settles the costs and deletes the directory
        context.scratch_dir.close()
    _ended.set()


def _wait_for_jobs(context: Context) -> None:
    """Wait for jobs in threads outside Celery's pool. The draining thread lets them finish or stops them."""
    settings = context.settings
    patience = settings.shutdown_grace + settings.cancel_grace + 2 * timedelta(seconds=_GUARD)
    deadline = monotonic() + (patience.total_seconds() if context.draining.is_set() else 0)
    while context.in_flight.count() and monotonic() < deadline:
        time.sleep(_POLL.total_seconds())


def _refuse(error: CoordinationError) -> None:
    """Print the error and exit; Celery would only log it and continue."""
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
    """Start a prefork child, which has its own engine, heartbeat and identity; the parent has none."""
    global _process, _interruptible
    if _orders is not None and os.getpid() == _orders.owner:
        return  # the solo pool sends this signal too, in the process that has started already
    _process, _interruptible = None, False
    try:
        begin(f"{os.uname().nodename}:{os.getpid()}", slots=1)
    except CoordinationError as error:
        _refuse(error)
    gc_tuning.freeze_loaded_objects()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _on_worker(sender: Any = None, **_: Any) -> None:
    """Start this process before its pool, if the pool (threads, solo) runs jobs in it."""
    if "prefork" in _pool(sender) or "processes" in _pool(sender):
        _set_pool_folder()
        return
    try:
        begin(str(sender.hostname), slots=1 if "solo" in _pool(sender) else int(sender.concurrency or 1))
    except CoordinationError as error:
        _refuse(error)


def _set_pool_folder() -> None:
    """Put the pool's temporary files into a directory that the cleanup deletes if this process is killed."""
    global _pool_folder  # noqa: PLW0603
    try:
        _pool_folder = scratch_dirs.create(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)
    except CoordinationError as error:
        log.warning("the pool's temporary files are in the default directory", why=error.message)
    else:
        multiprocessing.current_process()._config["tempdir"] = str(_pool_folder.path)  # type: ignore[attr-defined]  # noqa: SLF001


def _pool(sender: Any) -> str:
    pool = getattr(sender, "pool_cls", None)
    return pool if isinstance(pool, str) else getattr(pool, "__module__", "")


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _on_ready(sender: Any = None, **_: Any) -> None:
    """Report to the parent process that this worker is ready, and start the watchdog."""
    if _process is not None and _orders is not None and queues.JOBS in sender.app.amqp.queues.consume_from:
        _process.watchdog.start()
    gc_tuning.freeze_loaded_objects()
    descriptor = load_settings().ready_fd
    # Once: Celery sends this signal after each reconnect, when the descriptor may be another file.
    os.environ.pop("COORD_READY_FD", None)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, b"ready\n")
            os.close(descriptor)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutting_down(**_: Any) -> None:
    """Drain also on a signal that arrived before our handlers were installed."""
    if _orders is not None:
        _orders.drain.set()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: Any) -> None:
    end()
    if _pool_folder is not None:
        _pool_folder.close()


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _on_child_shutdown(**_: Any) -> None:
    end()
