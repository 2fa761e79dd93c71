"""The embedded stack in its owner's process: Redis, one worker process and beat, started and stopped together.

The worker is a command that reports when it is ready. This module imports neither Celery nor the store, so that
commands start fast.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from coordination.base.clock import utc_now
from coordination.base.errors import CoordinationError, Unavailable
from coordination.base.host import WORKER_MARKER, keep_private
from coordination.settings import Settings
from coordination.stack import processes
from coordination.stack.home import Home, RunningStack
from coordination.stack.interrupts import ignore_signals
from coordination.stack.processes import Program, Service, ServiceRecord
from coordination.stack.redis_server import RedisServer, prepare_server
from coordination.stack.users import StackUsers

REDIS, WORKER, BEAT = "redis", "worker", "beat"

# For a worker that does not hand its jobs back when its grace period is over.
_MARGIN = timedelta(seconds=5)
_BRIEF = timedelta(seconds=10)
_ENDING = timedelta(seconds=15)
_NEEDED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE"),
        *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    }
)


def worker_command() -> list[str]:
    """Return the command of the worker. With -P, a directory ``workers`` where it is started is not imported."""
    return [sys.executable, "-P", "-m", "workers"]


def beat_command(schedule: Path) -> list[str]:
    """Return the command of beat, which stores in *schedule* when it last sent each message."""
    return [sys.executable, "-P", "-m", "celery", "-A", "workers.app", "beat", "--schedule", str(schedule)]


def end_jobs_of(worker_id: str) -> None:
    """End the jobs of a dead worker on this host, in case its warden has died too. Raises Unavailable if that fails."""
    try:
        subprocess.run(
            [sys.executable, "-P", "-m", "workers.runners.warden", f"{WORKER_MARKER}={worker_id}"],
            stdin=subprocess.DEVNULL,  # as for a warden whose worker has ended
            env=_bare(absolute_imports(dict(os.environ))),
            cwd="/",
            timeout=_ENDING.total_seconds(),
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"What a dead worker's jobs have left could not be ended: {error}") from error


class Stack(contextlib.AbstractContextManager["Stack"]):
    """A running stack. Leaving the ``with`` block stops it."""

    def __init__(
        self,
        settings: Settings,
        home: Home,
        lock: int,
        *,
        worker_argv: Sequence[str],
        beat_argv: Sequence[str] | None,
        on_worker_death: Callable[[int], bool | None] | None,
        counts_users: bool = False,
    ) -> None:
        """*lock*: of the home directory, kept until the stack has stopped. Use ``start``."""
        self.home = home
        self._settings = settings
        self._lock: int | None = lock
        self._stop_lock = threading.Lock()
        self._record_lock = threading.RLock()
        self._server: RedisServer | None = None
        if settings.redis_url is None:
            self._server = prepare_server(home, settings.runtime_dir)
        self.redis_url: str = settings.redis_url or (self._server.url if self._server else "")
        env = absolute_imports(settings.child_environment(COORD_REDIS_URL=self.redis_url))
        self._services: dict[str, Service] = {}
        if self._server is not None:
            self._add(self._server.program(_bare(env)), repair=self._server.set_file_aside)
        self._add(self._program(WORKER, worker_argv, env, announces=True), on_death=on_worker_death)
        if beat_argv is not None:
            settings_alone = {name: value for name, value in env.items() if name.startswith("COORD_")}
            settings_alone.pop("COORD_DATABASE_URL", None)  # beat sends messages
            self._add(self._program(BEAT, beat_argv, _bare(env) | settings_alone))
        self._record = RunningStack(
            owner=ServiceRecord.of(os.getpid()),
            started_at=utc_now(),
            version="",
            redis_url=self.redis_url,
            database_url=settings.database_url,
            serves=settings.workspaces or settings.workspace,
            grace=settings.shutdown_grace.total_seconds(),
            counts_users=counts_users,
        )

    @property
    def failure(self) -> CoordinationError | None:
        """The error of a service that died too often to be restarted."""
        return next((service.failure for service in self._services.values() if service.failure is not None), None)

    def stop(self, grace: timedelta | None = None, *, now: bool = False) -> None:
        """Drain the worker (for *grace*; default: from the settings), end everything, release the home directory.

        *now*: hand jobs back at once, without a grace period.

        Safe to call twice. When the wait is interrupted, everything is killed at once. If the worker did not end in
        order, ``on_worker_death`` is called before this returns, to end its jobs.
        """
        with self._stop_lock:
            if self._lock is None:
                return
            settings = self._settings
            patience = settings.cancel_grace + _MARGIN + (timedelta(0) if now else settings.shutdown_grace)
            patience = patience if grace is None else grace
            try:
                self._note_stopping()
                for name in (WORKER, BEAT):
                    if name in self._services:
                        self._services[name].request_stop(signal.SIGQUIT if now else signal.SIGTERM)
                self._finish(WORKER, patience)
                self._finish(BEAT, _BRIEF)
                self._finish(REDIS, _BRIEF)
            finally:
                with ignore_signals():
                    for name in (WORKER, BEAT, REDIS):
                        self._finish(name, timedelta(0))
                    self._release()

    def run(self, users: StackUsers | None = None) -> None:
        """Run the stack until it is stopped or a service fails, and with *users* while there is one.

        SIGTERM, SIGINT and SIGHUP stop it; SIGQUIT without a grace period, also later. Another signal while it stops
        raises KeyboardInterrupt, which ends everything at once. SIGUSR1 makes it check its users now. For the
        main thread of a process that only runs the stack. Reports to a waiting parent that it is ready. Raises the
        stack's failure.
        """
        wake = threading.Event()
        received: list[int] = []

        def on_signal(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGUSR1:
                wake.set()
            elif received and number == signal.SIGQUIT:
                # In a thread, because the interrupted code may hold the lock that this needs.
                threading.Thread(target=self._services[WORKER].hurry, daemon=True).start()
            elif received:
                signal.default_int_handler(number, frame)
            else:
                received.append(number)
                wake.set()

        signals = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # the terminal was closed; nohup ignores that
            signals.append(signal.SIGHUP)
        before = {number: signal.signal(number, on_signal) for number in signals}
        unused = False
        try:
            self._report_ready()
            while not received and self.failure is None and not unused:
                wake.wait(1)
                wake.clear()
                unused = not received and users is not None and users.is_unused(self._note_stopping)
        finally:
            first = next(iter(received), signal.SIGTERM)
            received.append(first)
            failure = self.failure
            try:
                if not unused:
                    self._write_end(failure)
                self.stop(now=first == signal.SIGQUIT)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        if failure is not None:
            raise failure

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- used by start

    def _start_services(self) -> None:
        self._update()
        atexit.register(self.stop)  # if the owner does not stop it, for example because of an exception
        # In parallel: the server is up long before the worker has imported its modules.
        up_first = [name for name in (REDIS, WORKER) if name in self._services]
        for name in up_first:
            self._services[name].begin()
        version = "unknown"
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version("coordination")
        for name in up_first:
            self._services[name].wait_until_up()
        if BEAT in self._services:
            self._services[BEAT].begin()
        self._update(version=version, ready=True)

    def _add(
        self,
        program: Program,
        *,
        on_death: Callable[[int], bool | None] | None = None,
        repair: Callable[[str], bool] | None = None,
    ) -> None:
        self._services[program.name] = Service(program, on_started=self._note, on_death=on_death, repair=repair)

    def _program(self, name: str, argv: Sequence[str], env: dict[str, str], *, announces: bool = False) -> Program:
        # In the home directory, so that nothing in the user's current directory is imported by accident.
        folder = self.home.folder
        return Program(name, argv, env, folder=folder, log=self.home.log(name), announces=announces)

    def _finish(self, name: str, grace: timedelta) -> None:
        if name in self._services:
            self._services[name].finish(grace)

    def _note(self, name: str, child: ServiceRecord) -> None:
        with self._record_lock:
            self._update(services={**self._record.services, name: child})

    def _note_stopping(self) -> None:
        with contextlib.suppress(CoordinationError):
            self._update(ready=False, stopping=True)

    def _write_end(self, failure: CoordinationError | None) -> None:
        with contextlib.suppress(CoordinationError):
            self.home.write_end(self._record.owner, failure)

    def _update(self, **changes: Any) -> None:
        with self._record_lock:
            self._record = replace(self._record, **changes)
            self.home.write(self._record)

    def _release(self) -> None:
        atexit.unregister(self.stop)
        if self._server is not None:
            self._server.clear_away()
        lock, self._lock = self._lock, None
        try:
            self.home.forget()
        finally:
            if lock is not None:
                os.close(lock)

    def _report_ready(self) -> None:
        if self._settings.ready_fd is not None:
            with contextlib.suppress(OSError):  # the parent has ended or closed the pipe
                os.write(self._settings.ready_fd, b"ready\n")
            with contextlib.suppress(OSError):
                os.close(self._settings.ready_fd)


def start(
    settings: Settings,
    *,
    with_beat: bool = True,
    worker_argv: Sequence[str] | None = None,
    beat_argv: Sequence[str] | None = None,
    on_worker_death: Callable[[int], bool | None] | None = None,
    counts_users: bool = False,
) -> Stack:
    """Start a stack in the settings' home directory and return once its worker is ready.

    If ``redis_url`` is set, that server is used and none is started. *on_worker_death* gets the pid of every worker
    that did not end in order, including one of a killed owner, before the next one starts or the stack has stopped. It
    returns whether the worker has done work: the stack gives up after several workers in a row that did none.
    *counts_users*: the stack ends with its last user. Raises StackRunning when a stack runs already, or another error;
    nothing is left running then.
    """
    keep_private()
    home = Home(settings.home).prepare()
    lock = home.acquire()
    stack: Stack | None = None
    try:
        end_orphans(home, on_worker_death)
        home.rotate_logs(REDIS, WORKER, BEAT)
        stack = Stack(
            settings,
            home,
            lock,
            worker_argv=worker_argv or worker_command(),
            beat_argv=(beat_argv or beat_command(home.beat_schedule)) if with_beat else None,
            on_worker_death=on_worker_death,
            counts_users=counts_users,
        )
        stack._start_services()  # noqa: SLF001 - the other half of this function
    except BaseException:
        if stack is None:
            os.close(lock)
        else:
            stack.stop(timedelta(0))
        raise
    return stack


def end_orphans(home: Home, on_worker_death: Callable[[int], bool | None] | None) -> None:
    """End the processes of a killed owner, and report its worker. Requires the lock of the home directory."""
    record = home.read()
    if record is None:
        return
    # They got a signal when their owner died, so the time for draining is over.
    processes.end_all(record.services.values(), _BRIEF)
    worker = record.services.get(WORKER)
    if worker is not None and on_worker_death is not None:
        on_worker_death(worker.pid)
    home.forget()


def _bare(env: Mapping[str, str]) -> dict[str, str]:
    """Return only the necessary variables, because jobs can read the others in /proc and Celery may use them."""
    return {name: value for name, value in env.items() if name in _NEEDED or name.startswith(("LC_", "PYTHON"))}


def absolute_imports(env: dict[str, str]) -> dict[str, str]:
    """Make the paths of PYTHONPATH in *env* absolute."""
    if path := env.get("PYTHONPATH"):
        # An empty entry means the current directory.
        env["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in path.split(os.pathsep))
    return env
