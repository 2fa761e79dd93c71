"""Child processes: start, wait, restart after a crash, end with all descendants.

Each service has a thread that starts its child and waits for its end. One thread must do both, because the kernel ties
a child to the *thread* that started it (see launcher).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from coordination.base.errors import CoordinationError, Unavailable
from coordination.base.host import boot_id

log = logging.getLogger(__name__)
logging.getLogger("coordination.stack").addHandler(logging.NullHandler())  # the terminal may show a live display

READY_VARIABLE = "COORD_READY_FD"
"""The variable with the file descriptor to which a child writes a line once it is ready."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_POLL_EVERY = 0.05
_ASK_EVERY = 0.005
_TAIL_LINES = 6
_TAIL_BYTES = 8_000

# The death of a child that lived this long is not counted as a repeated one.
_STEADY = timedelta(seconds=60)
_MOST_RESTARTS = 8
_LONGEST_PAUSE = 30.0
_OVER_WITHIN = 30.0  # after its death, with the callback


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """A process, identified by pid and start time, because pids are reused."""

    pid: int
    started: str  # the boot's id and the clock ticks since it

    @classmethod
    def of(cls, pid: int) -> ServiceRecord:
        """Return the process that has *pid* now. Raises ProcessLookupError."""
        fields = _stat(pid)
        if fields is None:
            raise ProcessLookupError(pid)
        return cls(pid, f"{boot_id()}:{fields[19]}")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ServiceRecord:
        """Restore a record from its JSON form."""
        return cls(int(content["pid"]), str(content["started"]))

    def alive(self) -> bool:
        """Return whether this process still runs (a zombie does not)."""
        fields = _stat(self.pid)
        return fields is not None and fields[0] not in {"Z", "X"} and self.started == f"{boot_id()}:{fields[19]}"


def end_all(records: Iterable[ServiceRecord], grace: timedelta) -> None:
    """End processes that are not our children: SIGTERM, then SIGKILL after *grace*."""
    alive = [record for record in records if record.alive()]
    for record in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM)
    alive = _await_ends(alive, grace)
    for record in alive:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, signal.SIGKILL)  # every child of a stack leads its own group
    if stubborn := _await_ends(alive, timedelta(seconds=5)):
        pids = ", ".join(str(record.pid) for record in stubborn)
        raise Unavailable(
            f"Processes of an earlier stack cannot be ended: {pids}", hint=f"Look at them with ps -fp {pids}"
        )


def _await_ends(records: list[ServiceRecord], patience: timedelta) -> list[ServiceRecord]:
    deadline = time.monotonic() + patience.total_seconds()
    while (alive := [record for record in records if record.alive()]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive


@dataclass(frozen=True, slots=True)
class Program:
    """The program of a service. It is up when it announces that, when it answers, or as soon as it is started."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    log: Path
    stdin: bytes = b""  # at most what fits into a pipe
    announces: bool = False
    answers: Callable[[], bool] | None = None
    patience: timedelta = timedelta(seconds=60)


class Service:
    """One program kept running from ``begin`` to ``finish``. The callbacks run in the service's own thread."""

    def __init__(
        self,
        program: Program,
        *,
        on_started: Callable[[str, ServiceRecord], None] | None = None,
        on_death: Callable[[int], bool | None] | None = None,
        repair: Callable[[str], bool] | None = None,
    ) -> None:
        """*on_death* gets the pid of a child that did not exit with 0, and returns whether it has done work.

        *repair* gets the log of a failed start, and returns whether it has removed the cause.
        """
        self.program = program
        self.failure: CoordinationError | None = None
        self._on_started = on_started
        self._on_death = on_death
        self._repair = repair
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._settled = threading.Event()  # up for the first time, or given up
        self._was_up = False
        # Not Thread.join: after an interrupting signal it considers the thread as ended.
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stack-{program.name}", daemon=True)

    def begin(self) -> None:
        """Start it without waiting."""
        self._thread.start()

    def wait_until_up(self) -> None:
        """Wait until it is up. Raises Unavailable, with the last lines of its log, when it cannot be started."""
        self._settled.wait()
        if self.failure is not None:
            raise self.failure

    def request_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal, and do not restart it. *number*: SIGQUIT ends a worker's jobs without a grace period."""
        with self._lock:
            # Once, because a second signal means "at once" for some programs.
            if self._child is not None and not self._stopping.is_set():
                self._child.signal(number)
            self._stopping.set()

    def hurry(self) -> None:
        """End the grace period of a stop."""
        with self._lock:
            if self._child is not None and self._stopping.is_set():
                self._child.signal(signal.SIGQUIT)

    def finish(self, grace: timedelta) -> None:
        """Wait for its end. Kill it after *grace* or when the wait is interrupted."""
        self.request_stop()
        if self._thread.ident is None:
            return
        try:
            self._over.wait(max(grace.total_seconds(), 0))
        finally:
            if not self._over.is_set():
                self._kill()
                self._over.wait(_OVER_WITHIN)

    def _kill(self) -> None:
        with self._lock:
            if self._child is not None:
                self._child.signal(signal.SIGKILL, group=True)

    # --- in the service's thread

    def _run(self) -> None:
        try:
            self._keep_up()
        except Exception as error:  # whoever waits for this service must get the error
            log.exception("the %s is no longer watched", self.program.name)
            self.failure = Unavailable(f"The {self.program.name} cannot be kept running: {error}")
        finally:
            with self._lock:
                if self._child is not None:
                    self._child.reap()
                    self._child = None
            self._settled.set()
            self._over.set()

    def _keep_up(self) -> None:
        restarts = 0
        while (child := self._spawn()) is not None:
            up = self._comes_up(child)
            status = child.wait()
            lived = child.age()
            with self._lock:
                child.reap()
                self._child = None
            if self._stopping.is_set():
                if not child.ended_well:
                    self._report_death(child.record.pid)
                return
            if not up and self._repair is not None and restarts <= _MOST_RESTARTS and self._repair(child.log_tail()):
                restarts += 1
                continue
            event = f"The {self.program.name} {status}{'' if up else ' before it was ready'}"
            if not self._was_up:
                self.failure = self._error(event, child)
                return
            log.warning("%s (process %d)", event, child.record.pid)
            worked = self._report_death(child.record.pid)
            restarts = 1 if worked or lived >= _STEADY else restarts + 1
            if restarts > _MOST_RESTARTS:
                self.failure = self._error(f"{event}, {restarts} times in a row", child)
                return
            self._stopping.wait(_pause(restarts))

    def _spawn(self) -> _Child | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            child = self._child = _Child(self.program)
        if self._on_started is not None:
            try:
                self._on_started(self.program.name, child.record)
            except CoordinationError:  # a full disk: the child runs, only its record is missing
                log.exception("the start of process %d could not be recorded", child.record.pid)
        return child

    def _comes_up(self, child: _Child) -> bool:
        if child.comes_up(self.program, self._stopping):
            self._was_up = True
            self._settled.set()
            return True
        if not self._stopping.is_set():
            self._kill()
        return False

    def _report_death(self, pid: int) -> bool:
        """Call *on_death*. Return whether that child has done work."""
        if self._on_death is None:
            return False
        try:
            return bool(self._on_death(pid))
        except Exception:  # a failing callback must not prevent the restart
            log.exception("the death of process %d could not be reported", pid)
            return False

    def _error(self, event: str, child: _Child) -> Unavailable:
        tail = " | ".join(child.log_tail().splitlines()[-_TAIL_LINES:])
        end = f"; its log ends with: {tail}" if tail else " and said nothing"
        return Unavailable(f"{event}{end}", hint=f"Its log is {self.program.log}")


class _Child:
    """One run of a program. It leads its own session, so that a Ctrl-C in the owner's terminal does not reach it."""

    def __init__(self, program: Program) -> None:
        env = dict(program.env)
        inherited: tuple[int, ...] = ()
        self._ready: int | None = None
        self._reaped = False
        self._late = False
        self.ended_well = False
        self._began = time.monotonic()
        self._log = program.log
        if program.announces:
            self._ready, write_end = os.pipe()
            inherited = (write_end,)
            env[READY_VARIABLE] = str(write_end)
        tie = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(signal.SIGTERM))]
        try:
            with os.fdopen(os.open(program.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
                self._log_start = output.seek(0, os.SEEK_END)
                self._popen = subprocess.Popen(
                    [*tie, *program.argv],
                    env=env,
                    cwd=program.folder,
                    pass_fds=inherited,
                    stdin=subprocess.PIPE if program.stdin else subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except BaseException:
            self._close_ready()
            raise
        finally:
            for fd in inherited:
                os.close(fd)
        self.record = ServiceRecord.of(self._popen.pid)
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._popen.stdin as pipe:
                pipe.write(program.stdin)

    def comes_up(self, program: Program, stopping: threading.Event) -> bool:
        """Wait until it is up. Return False when it ends first, is stopped, or takes too long."""
        if self._ready is None and program.answers is None:
            return True
        deadline = self._began + program.patience.total_seconds()
        try:
            while not stopping.is_set():
                over = self._has_ended()  # first, because an announcement before its end counts
                if self._ready is not None and select.select([self._ready], [], [], 0 if over else _POLL_EVERY)[0]:
                    return bool(os.read(self._ready, 64))
                if program.answers is not None and not over:
                    if program.answers():
                        return True
                    stopping.wait(_ASK_EVERY)
                if over:
                    return False
                if time.monotonic() > deadline:
                    self._late = True
                    return False
            return False
        finally:
            self._close_ready()

    def wait(self) -> str:
        """Wait for its end and describe it. It stays a zombie, so that its pid and group are not reused."""
        with contextlib.suppress(ChildProcessError):
            result = os.waitid(os.P_PID, self.record.pid, os.WEXITED | os.WNOWAIT)
            if self._late:
                return "took too long"
            if result is not None and result.si_code == os.CLD_EXITED:
                self.ended_well = result.si_status == 0
                return f"ended with exit status {result.si_status}"
            if result is not None:
                return f"was killed by signal {result.si_status} ({signal.strsignal(result.si_status)})"
        return "ended"

    def age(self) -> timedelta:
        """Return the time since its start."""
        return timedelta(seconds=time.monotonic() - self._began)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send it (or its whole group) a signal, unless it has ended."""
        if not self._reaped:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.record.pid, number)

    def reap(self) -> None:
        """Kill the rest of its group, and reap it."""
        self.signal(signal.SIGKILL, group=True)
        self._popen.wait()
        self._reaped = True

    def log_tail(self) -> str:
        """Return the end of this run's log."""
        return read_tail(self._log, self._log_start)

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.record.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:  # other code in this process waits for all children
            return True

    def _close_ready(self) -> None:
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None


def read_tail(log: Path, begin: int) -> str:
    """Return the end of what was written to *log* after its first *begin* bytes."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _pause(restarts: int) -> float:
    """Return seconds before the next start: 0 before the first, then doubling."""
    return 0.0 if restarts <= 1 else min(0.25 * 2 ** (restarts - 1), _LONGEST_PAUSE)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None when there is no such process."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()
