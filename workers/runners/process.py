"""Start one process of a job in its own session and group, and end it with all its descendants.

Waiting, limits and stop requests are in ``program.ProcessWatch``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from coordination.base.host import ATTEMPT_MARKER, WORKER_MARKER
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits
from workers.runners import environment, orphan_reaper, untrusted_files
from workers.runners.base import ProcessRecord
from workers.runners.namespaces import was_started
from workers.runners.sandbox_exec import DELAYED, NOT_STARTED
from workers.runners.sandbox_policy import ConfinedCommand, SandboxPolicy
from workers.runners.system_limits import add_limits

_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_SHORT = 1.0  # seconds in which pids cannot wrap around
_REAP_PATIENCE = 5.0
_BY_SIGNAL = 128
_LONGEST_STATUS = 4096
_CLOSE_PATIENCE = 10.0
_RESTART_PAUSE = 1.0  # between two wardens that die at once


class Launcher:
    """Starts processes for one worker process, with a warden that ends them if the worker dies.

    *worker_id*: the id by which other processes of this host can end them, see ``end_worker``. *sandbox*: the policy
    that confines them; each then has its own directory for temporary files. ``confines``: whether there is one.
    ``marker``: the entry in the environment of all processes of this worker and their descendants.
    """

    def __init__(self, worker_id: str | None = None, *, sandbox: SandboxPolicy | None = None) -> None:
        self.worker_id = worker_id or uuid.uuid4().hex
        self.marker = f"{WORKER_MARKER}={self.worker_id}"
        self.confines = sandbox is not None
        self._sandbox = sandbox
        self._warden = Warden(self.marker)
        self._tag = orphan_reaper.worker_tag(self.marker)
        self._numbers = itertools.count()

    def show(self, place: str) -> None:
        """Let sandboxes of processes that start from now on read a path of the worker."""
        if self._sandbox is not None:
            self._sandbox.show(place)

    def make_place(self, within: str | None = None) -> str | None:
        """Create a directory that only processes with it in *write* may change. Return None without a sandbox.

        *within*: its parent, if not the worker's directory.
        """
        return None if self._sandbox is None else self._sandbox.make_temporary(within)

    def start(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: str,
        marker: str = ATTEMPT_MARKER,
        stdin: int = subprocess.DEVNULL,
        stdout: int,
        stderr: int,
        pass_on: Sequence[int] = (),
        limits: Limits = NO_LIMITS,
        write: Sequence[str] | None = None,
        temporary_in: str | None = None,
        read: Sequence[str] = (),
    ) -> Process:
        """Start a program in its own session. Raises OSError or ValueError when that fails.

        *marker*: the name of the variable in *environment* that identifies its descendants. Of *limits*, those are set
        that the system enforces per process. *write*: paths that a sandbox makes writable instead of *folder*; the
        repository of *folder* is always writable. *read*: further readable paths. *temporary_in*: the parent of its
        directory for temporary files, if not the worker's directory.
        """
        # Markers first, so that a search reads only the beginning of the environment.
        ordered = {marker: environment[marker], WORKER_MARKER: self.worker_id} | dict(environment)
        confined = ConfinedCommand(list(add_limits(arguments, limits)), ordered)
        temporary = None if self._sandbox is None else self._sandbox.make_temporary(temporary_in)
        self._warden.start()
        tag = orphan_reaper.job_tag(self._tag, next(self._numbers))
        try:
            if self._sandbox is not None and temporary is not None:
                confined = self._sandbox.around(
                    confined.command,
                    ordered,
                    folder=folder,
                    temporary=temporary,
                    write=[folder] if write is None else write,
                    read=read,
                )
            with orphan_reaper.set_tag(tag), _block_signals(confined):
                popen = subprocess.Popen(
                    confined.command,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    cwd=folder,
                    env=confined.environment,
                    start_new_session=True,
                    pass_fds=(*pass_on, *([] if confined.status is None else [confined.status])),
                )
        except BaseException:
            if confined.status is not None:
                os.close(confined.status)
            untrusted_files.delete_quietly(temporary)
            raise
        entry = f"{marker}={environment[marker]}"
        return Process(popen, entry, tag, self._warden, temporary, status=confined.status)

    def close(self) -> None:
        """End the warden, which ends processes that still run."""
        self._warden.close()


class Process:
    """A started process, the leader of its group. ``exit_fd`` becomes readable when it exits, before it is reaped.

    ``markers``: the tag and the environment entries of its descendants.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        marker: str,
        tag: orphan_reaper.ProcessTag,
        warden: Warden,
        temporary: str | None = None,
        *,
        status: int | None = None,
    ) -> None:
        self._popen = popen
        self._temporary = temporary
        self._status = status
        self._not_started = False
        self._warden = warden
        self._ended = False
        self._born = time.monotonic()
        self.markers: Sequence[bytes | orphan_reaper.ProcessTag] = [tag, os.fsencode(marker)]
        self.exit_fd = _exit_descriptor(popen.pid)
        # A process that has exited already is a zombie, so its /proc entry still exists.
        self.record = ProcessRecord(
            pid=popen.pid, pgid=popen.pid, start_time=orphan_reaper.start_time(popen.pid) or 0, marker=marker
        )
        warden.register(self.record.pgid, self.record.start_time)

    @property
    def exit_code(self) -> int | None:
        """The exit status, or the negative number of the signal that killed it. None before ``end``.

        In namespaces, a program killed by a signal has 128 plus that number, as in a shell.
        """
        return NOT_STARTED if self._not_started else self._popen.returncode

    def set_job_marker(self, marker: str) -> None:
        """Count processes with this marker as its descendants: those of the job that a reused process runs."""
        self.markers = [*self.markers[:2], os.fsencode(marker)]

    def terminate(self) -> None:
        """Send SIGTERM to the whole group and to descendants that have left it."""
        group = self.record.pgid
        orphan_reaper.signal_group(group, signal.SIGTERM)
        others = [pid for pid in orphan_reaper.find(self.markers) if pid != self.record.pid]
        outside = [pid for pid in others if orphan_reaper.group_of(pid) != group]
        orphan_reaper.signal_each(outside, signal.SIGTERM, lambda _: True)
        orphan_reaper.signal_group(group, signal.SIGCONT)  # a stopped process does not handle signals

    def kill(self) -> None:
        """Send SIGKILL to the whole group."""
        orphan_reaper.signal_group(self.record.pgid, signal.SIGKILL)

    def others(self) -> list[int]:
        """Return the live processes of this job besides its leader."""
        return [pid for pid in orphan_reaper.find(self.markers, group=self.record.pgid) if pid != self.record.pid]

    def end(self) -> int | None:
        """Kill its remaining processes, reap it, and return its exit code. Safe to call twice.

        The leader is reaped last, because until then its pid and group number cannot be reused.
        """
        if self._ended:
            return self.exit_code
        self._ended = True
        young = time.monotonic() - self._born < _SHORT
        orphan_reaper.kill_all(
            self.markers, group=self.record.pgid, born_after=self.record.pid if young else None, patience=2.0
        )
        try:
            self._popen.wait(timeout=_REAP_PATIENCE)
        except subprocess.TimeoutExpired:
            # It hangs in the kernel (a dead network file system): a thread reaps it later.
            threading.Thread(target=self._popen.wait, name="reaper", daemon=True).start()
        if self._status is not None:
            failed = 0 < (self._popen.returncode or 0) < _BY_SIGNAL
            self._not_started = failed and not was_started(os.pread(self._status, _LONGEST_STATUS, 0))
            os.close(self._status)
        os.close(self.exit_fd)
        self._warden.forget(self.record.pgid)
        if self._temporary is not None:
            untrusted_files.delete_quietly(self._temporary)
        return self.exit_code


class Warden:
    """Keeps one warden process running and informed of the process groups. Thread-safe; methods may be repeated.

    ``process``: the running warden.
    """

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._lock = threading.Lock()
        self._groups: dict[int, int] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._watcher: threading.Thread | None = None
        self._closed = False
        self._closing = threading.Event()

    def start(self) -> None:
        """Start the warden unless it runs."""
        if self.process is not None:
            return
        with self._lock:
            if self.process is None and not self._closed:
                self._launch()

    def register(self, group: int, start_time: int) -> None:
        """Add a running process group. *start_time*: of its leader (0: unknown, found only by its marker)."""
        with self._lock:
            if start_time:
                self._groups[group] = start_time
                self._send(f"+ {group} {start_time}\n")

    def forget(self, group: int) -> None:
        """Remove a group that has ended."""
        with self._lock:
            if self._groups.pop(group, None) is not None:
                self._send(f"- {group}\n")

    def close(self) -> None:
        """End the warden, which kills what still runs, as when the worker ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._closing.set()
            if self.process is None:
                return
            self.process = None
            os.close(self._pipe)
            self._pipe = -1
        if self._watcher is not None:
            self._watcher.join(_CLOSE_PATIENCE)

    def _launch(self) -> None:
        """Start a warden and send it all groups. Called with the lock held."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with orphan_reaper.starting:
                process = subprocess.Popen(
                    # Without site packages, it starts in half the time.
                    [sys.executable, "-S", "-P", "-B", "-m", "workers.runners.warden", self._marker],
                    stdin=reading,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={"PYTHONPATH": str(_SOURCE_ROOT)},
                    start_new_session=True,
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        # A suspended warden must not block its worker: a full pipe counts as a dead warden.
        os.set_blocking(writing, False)
        self.process, self._pipe = process, writing
        self._send("".join(f"+ {group} {started}\n" for group, started in self._groups.items()))
        self._watcher = threading.Thread(
            target=self._replace_when_dead, args=(process,), name="warden-watch", daemon=True
        )
        self._watcher.start()

    def _send(self, lines: str) -> None:
        if self.process is None or not lines:
            return
        data = lines.encode()
        try:
            if os.write(self._pipe, data) == len(data):
                return
        except BrokenPipeError:
            return  # dead; the watching thread starts the next one, which receives all groups
        except BlockingIOError:
            pass
        self.process.kill()

    def _replace_when_dead(self, process: subprocess.Popen[bytes]) -> None:
        began = time.monotonic()
        process.wait()
        if time.monotonic() - began < _RESTART_PAUSE:
            self._closing.wait(_RESTART_PAUSE)
        with self._lock:
            if self.process is not process:
                return
            os.close(self._pipe)
            self._pipe = -1
            self.process = None
            if not self._closed:
                self._launch()


@contextlib.contextmanager
def _block_signals(confined: ConfinedCommand) -> Iterator[None]:
    """Block some signals for processes started in namespaces until the job's own program runs.

    They would kill bwrap, and the job with it, without time for a cleanup.
    """
    if confined.status is None:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DELAYED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_attempt(task_id: str, attempt: int) -> int:
    """End the processes with an attempt's marker on this host. Return how many were killed.

    An interpreter of the pool has no such marker, only the processes that its job started.
    """
    marker = f"{ATTEMPT_MARKER}={environment.attempt_prefix(task_id, attempt)}"
    return orphan_reaper.kill_all([os.fsencode(marker)])


def end_worker(worker_id: str) -> int:
    """End all processes of a dead or stopped worker on this host, including interpreters. Return how many."""
    marker = f"{WORKER_MARKER}={worker_id}"
    return orphan_reaper.kill_all([os.fsencode(marker), orphan_reaper.worker_tag(marker)])


def death_sentence(exit_code: int) -> str:
    """Describe the end of a process that a signal killed."""
    number = -exit_code
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"killed by {name}{hint}"


def _exit_descriptor(pid: int) -> int:
    handle = orphan_reaper.open_pidfd(pid)
    if handle is not None:
        return handle
    # In old kernels, or containers that forbid pidfds: a thread waits, without reaping, and closes a pipe.
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def wait() -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.close(writing)

    threading.Thread(target=wait, name=f"exit-of-{pid}", daemon=True).start()
    return reading
