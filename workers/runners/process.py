"""Owns one process of a job and everything it starts: its own session and group, ended whole, reaped, nothing left.

It starts and ends; waiting, limits and requests to stop are watch's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

from coordination.base.host import WORKER_MARKER
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits
from workers.runners import environment, orphan_reaper, untrusted_files
from workers.runners.base import ProcessRecord
from workers.runners.namespaces import was_started
from workers.runners.sandbox_exec import DELAYED, NOT_STARTED
from workers.runners.sandbox_policy import ConfinedCommand, SandboxPolicy
from workers.runners.system_limits import limited
from workers.runners.warden import Warden

_SHORT = 1.0  # seconds in which the pid numbers of no machine go round
_REAP_PATIENCE = 5.0
_BY_SIGNAL = 128
_LONGEST_STATUS = 4096


class Launcher:
    """Starts processes on behalf of one worker process; its warden ends them should the worker die.

    *worker_id*: the name by which others on this host can end them too, see ``end_worker``. *sandbox*: what they are
    kept from; in it each has a folder for temporary files of its own.
    """

    def __init__(self, worker_id: str | None = None, *, sandbox: SandboxPolicy | None = None) -> None:
        self.worker_id = worker_id or uuid.uuid4().hex
        self._sandbox = sandbox
        self._warden = Warden(self.marker)
        self._tag = orphan_reaper.worker_tag(self.marker)
        self._numbers = itertools.count()

    @property
    def marker(self) -> str:
        """What every process started here, and all that these start, carry in their environment."""
        return f"{WORKER_MARKER}={self.worker_id}"

    @property
    def confines(self) -> bool:
        """Whether its processes are in a sandbox."""
        return self._sandbox is not None

    def show(self, place: str) -> None:
        """Let processes that start from now on read a place of the worker's, where they are confined."""
        if self._sandbox is not None:
            self._sandbox.show(place)

    def make_place(self, within: str | None = None) -> str | None:
        """A folder that only processes started with it in *write* may change; None without a sandbox.

        *within*: where it is made, if not in the worker's folder.
        """
        return None if self._sandbox is None else self._sandbox.make_temporary(within)

    def start(
        self,
        arguments: Sequence[str],
        *,
        markers: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int,
        stderr: int,
        pass_on: Sequence[int] = (),
        limits: Limits = NO_LIMITS,
        write: Sequence[str] | None = None,
        temporary_in: str | None = None,
        read: Sequence[str] = (),
    ) -> Process:
        """Start a program in a session of its own. Raises OSError or ValueError when it cannot be.

        *markers* are names of variables in *environment* by which its descendants are found again; the first one
        stands in the record. Of *limits*, those are set that the system keeps for each process. *write*: what it may
        change in a sandbox instead of its folder; the repository that this is in it may change in any case. *read*:
        what it has to be shown there besides. *temporary_in*: where its folder for temporary files is made there, if
        not in the worker's.
        """
        # Markers first: whoever looks for them need not read far.
        ordered = {name: environment[name] for name in markers} | {WORKER_MARKER: self.worker_id} | dict(environment)
        confined, temporary = ConfinedCommand(list(limited(arguments, limits)), ordered), None
        if self._sandbox is not None:
            temporary = self._sandbox.make_temporary(temporary_in)
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
            with orphan_reaper.inherited(tag), _delayed(confined):
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
            untrusted_files.clear(temporary)
            raise
        found = [f"{name}={environment[name]}" for name in markers]
        process = Process(popen, found, tag, self._warden, temporary, status=confined.status)
        self._warden.register(process.record.pgid, process.record.start_time)
        return process

    def close(self) -> None:
        """End the warden; what still runs is ended by it."""
        self._warden.close()


class Process:
    """A started process: the leader of its group. ``exit_fd`` turns readable when it exits, before it is reaped."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        markers: Sequence[str],
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
        self._markers: list[bytes | orphan_reaper.ProcessTag] = [tag, *map(os.fsencode, markers)]
        self.exit_fd = _exit_descriptor(popen.pid)
        # A process that has exited already is a zombie that nobody reaped yet, so its entry is still there.
        self.record = ProcessRecord(
            pid=popen.pid, pgid=popen.pid, start_time=orphan_reaper.start_time(popen.pid) or 0, marker=markers[0]
        )

    @property
    def exit_code(self) -> int | None:
        """The exit status, or minus the number of the signal that killed it; None before ``end``.

        In namespaces, a program that a signal killed has 128 and that number, as in a shell.
        """
        return NOT_STARTED if self._not_started else self._popen.returncode

    @property
    def markers(self) -> Sequence[bytes | orphan_reaper.ProcessTag]:
        """What its descendants carry: in their environment, and the tag."""
        return self._markers

    def carries(self, marker: str) -> None:
        """From now on, processes with this marker are its descendants too: a job that a reused process runs."""
        self._markers = [*self._markers[:2], os.fsencode(marker)]

    def terminate(self) -> None:
        """Ask the whole group to end, and what has left the group."""
        group = self.record.pgid
        orphan_reaper.signal_group(group, signal.SIGTERM)
        outside = [pid for pid in orphan_reaper.find(self._markers) if pid != self.record.pid and _group(pid) != group]
        orphan_reaper.signal_each(outside, signal.SIGTERM, lambda _: True)
        orphan_reaper.signal_group(group, signal.SIGCONT)  # a stopped process hears nothing

    def kill(self) -> None:
        """SIGKILL for the whole group."""
        orphan_reaper.signal_group(self.record.pgid, signal.SIGKILL)

    def others(self) -> list[int]:
        """Live processes of this job besides its leader."""
        return [pid for pid in orphan_reaper.find(self._markers, group=self.record.pgid) if pid != self.record.pid]

    def end(self) -> int | None:
        """Kill whatever is left of it, reap it, and return its exit code. Safe to call twice.

        The leader is reaped last: until then its pid, and so the group's number, can belong to nobody else.
        """
        if self._ended:
            return self.exit_code
        self._ended = True
        young = time.monotonic() - self._born < _SHORT
        orphan_reaper.kill_all(
            self._markers, group=self.record.pgid, born_after=self.record.pid if young else None, patience=2.0
        )
        try:
            self._popen.wait(timeout=_REAP_PATIENCE)
        except subprocess.TimeoutExpired:
            # It hangs in the kernel (a dead network file system): someone must reap it when it comes back.
            threading.Thread(target=self._popen.wait, name="reaper", daemon=True).start()
        if self._status is not None:
            failed = 0 < (self._popen.returncode or 0) < _BY_SIGNAL
            self._not_started = failed and not was_started(os.pread(self._status, _LONGEST_STATUS, 0))
            os.close(self._status)
        os.close(self.exit_fd)
        self._warden.forget(self.record.pgid)
        untrusted_files.clear(self._temporary)
        return self.exit_code


@contextlib.contextmanager
def _delayed(confined: ConfinedCommand) -> Iterator[None]:
    """What is started meanwhile in namespaces hears some signals only when the job's own program is there.

    bwrap itself would die of them, and its job with it, without a moment to tidy up.
    """
    if confined.status is None:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DELAYED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_recorded(record: ProcessRecord) -> int:
    """End on this host what a dead worker left of a job; returns how many processes were hit.

    The group is only touched while its leader is the process that was recorded.
    """
    group = record.pgid if record.start_time and orphan_reaper.start_time(record.pid) == record.start_time else None
    return orphan_reaper.kill_all([os.fsencode(record.marker)], group=group)


def end_attempt(task_id: str, attempt: int) -> int:
    """End on this host whatever carries an attempt's marker; returns how many processes were hit.

    A warm interpreter carries none: it is found as its worker's, and only what its jobs started is found here.
    """
    marker = f"{environment.MARKER}={environment.attempt_prefix(task_id, attempt)}"
    return orphan_reaper.kill_all([os.fsencode(marker)])


def end_worker(worker_id: str) -> int:
    """End on this host whatever a dead or stopped worker has started, idle and working interpreters included.

    Returns how many processes were hit.
    """
    marker = f"{WORKER_MARKER}={worker_id}"
    return orphan_reaper.kill_all([os.fsencode(marker), orphan_reaper.worker_tag(marker)])


def death_sentence(exit_code: int, *, what: str = "") -> str:
    """In words, how a process ended that a signal killed."""
    number = -exit_code
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"{what}killed by {name}{hint}"


def _exit_descriptor(pid: int) -> int:
    handle = orphan_reaper.open_pidfd(pid)
    if handle is not None:
        return handle
    # An old kernel, or a container that forbids the call: a thread waits, without reaping, and closes a pipe.
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def wait() -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.close(writing)

    threading.Thread(target=wait, name=f"exit-of-{pid}", daemon=True).start()
    return reading


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
