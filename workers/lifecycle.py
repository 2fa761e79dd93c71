"""A worker process's life, hung on Celery's signals: born, registered, ready, draining, handed back, gone.

One context per process: on threads and solo that is the worker itself, on prefork each child. Nothing is opened and
no thread is started before the fork.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from celery import signals

from coordination.clock import monotonic
from coordination.errors import CoordinationError, DatabaseUnavailable
from coordination.flows.rescue_worker import rescue_worker
from coordination.machine import boot_id, host
from coordination.settings import load_settings
from coordination.store import schema
from coordination.store.engine import is_transient
from coordination.store.queries import fleet
from workers.context import Context, make_context, registration
from workers.execution import Execution
from workers.housekeeping import Housekeeper
from workers.runners.base import StopReason
from workers.runners.registry import Runners
from workers.runners.stragglers import is_running

log = structlog.get_logger()

_PATIENCE = timedelta(seconds=60)
_GUARD = 10.0


@dataclass(slots=True)
class Process:
    """What this process is made of."""

    context: Context
    runners: Runners
    housekeeper: Housekeeper
    execution: Execution


_process: Process | None = None
_forks = False
_lock = threading.Lock()


def process() -> Process:
    """This process; begun at its first use where no signal did it before (an eager call, a pool we do not know)."""
    if _process is None:
        begin(f"worker@{os.getpid()}", slots=1)
    assert _process is not None  # noqa: S101 - just begun
    return _process


def begin(name: str, *, slots: int) -> Process:
    """Register this process and start its heartbeat and housekeeping. Waits for a database that is not there yet."""
    global _process  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _process is not None:
            return _process
        context = make_context(load_settings(), name=name, slots=slots)
        _wait_for_schema(context)
        with context.store.write() as tx:
            fleet.register(tx, registration(context, version=_version()))
        runners = Runners()
        housekeeper = Housekeeper(context)
        _process = Process(context, runners, housekeeper, Execution(context, runners, housekeeper))
        _hand_back_of_the_dead(context)
        context.heartbeat.start()
        _process.execution.watch.start()
        housekeeper.start()
    log.info("worker process begun", worker=context.worker_id, name=name, slots=slots)
    return _process


def _hand_back_of_the_dead(context: Context) -> None:
    """What workers of this host held that are no more, after a crash and a restart, need not wait for its leases."""
    if boot_id() == "unknown":
        return
    with context.store.read() as tx:
        found = fleet.on_host(tx, host=host(), boot_id=boot_id())
    for worker_id, pid in found:
        if not is_running(pid):
            context.store.transact(lambda tx, dead=worker_id: rescue_worker(tx, dead))  # type: ignore[misc]
            log.warning("handed back what a dead worker of this host held", worker=worker_id)


def _version() -> str:
    try:
        return version("coordination")
    except PackageNotFoundError:
        return "source"


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


def drain(grace: timedelta) -> None:
    """Claim nothing more, let jobs finish for *grace*, then hand the rest back as queued, uncharged."""
    running = _process
    if running is None or running.context.draining.is_set():
        return
    context = running.context
    context.draining.set()
    # Heartbeats go on until the last job is released, and tell of cancels; nobody is supervised from here any more.
    running.housekeeper.request_stop()
    log.info("draining", running=context.held.count(), grace=grace.total_seconds())
    with contextlib.suppress(CoordinationError), context.store.write() as tx:
        fleet.drain(tx, context.worker_id)

    def hand_back() -> None:
        deadline = monotonic() + grace.total_seconds()
        while context.held.count() and monotonic() < deadline:
            time.sleep(0.05)
        context.held.stop_all(StopReason.SHUTDOWN)
        # Runners end their jobs within the cancel grace; a process that hangs beyond that is ended here, and the
        # leases of whatever it still held run out.
        deadline = monotonic() + context.settings.cancel_grace.total_seconds() + _GUARD
        while context.held.count() and monotonic() < deadline:
            time.sleep(0.05)
        if context.held.count():
            log.error("jobs did not end in time; leaving them to the rescue", jobs=context.held.count())
            sys.stderr.flush()
            os._exit(1)

    threading.Thread(target=hand_back, name="coord-drain", daemon=True).start()


def end() -> None:
    """The process ends in order: no heartbeat any more, its row closed, its children gone."""
    global _process
    with _lock:
        running, _process = _process, None
    if running is None:
        return
    context = running.context
    running.housekeeper.stop()
    running.execution.watch.stop()
    running.runners.close()
    context.heartbeat.stop()
    with contextlib.suppress(CoordinationError), context.store.write() as tx:
        fleet.stop(tx, context.worker_id)
    context.nudges.close()
    context.store.close()
    shutil.rmtree(context.scratch, ignore_errors=True)


def _refuse(error: CoordinationError) -> None:
    """A worker that cannot begin says so in one sentence and ends; Celery would only log it and go on."""
    sys.stderr.write(f"coord worker: {error.sentence()}\n")
    sys.stderr.flush()
    os._exit(2)


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def _on_init(**_: Any) -> None:
    global _forks  # noqa: PLW0603
    _forks = False
    configure_logging()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _on_child(**_: Any) -> None:
    """A prefork child: its own engine, heartbeat and identity; the parent has none."""
    global _forks, _process
    _forks, _process = True, None
    try:
        begin(f"{os.uname().nodename}:{os.getpid()}", slots=1)
    except CoordinationError as error:
        _refuse(error)


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _on_worker(sender: Any = None, **_: Any) -> None:
    """The worker is about to start its pool. On threads and solo this process is the one that runs jobs."""
    if _pool_forks(sender):
        return
    try:
        begin(str(sender.hostname), slots=int(sender.concurrency or 1))
    except CoordinationError as error:
        _refuse(error)


def _pool_forks(sender: Any) -> bool:
    pool = getattr(sender, "pool_cls", None)
    name = pool if isinstance(pool, str) else getattr(pool, "__module__", "")
    return "prefork" in name or "processes" in name


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _on_ready(**_: Any) -> None:
    """Tell whoever started us that jobs can be taken."""
    descriptor = load_settings().ready_fd
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, b"ready\n")
            os.close(descriptor)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutting_down(**_: Any) -> None:
    if _process is not None:
        drain(_process.context.settings.shutdown_grace)


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: Any) -> None:
    end()


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _on_child_shutdown(**_: Any) -> None:
    end()


def configure_logging() -> None:
    """Structured logs on stderr: lines for people, or JSON."""
    import logging

    settings = load_settings()
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
