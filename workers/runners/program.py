"""Runs a program to its end as a job, in its own session, with bounded output and limits.

One thread sleeps in one poll() on all events (output, exit, stop request), so waiting jobs cost no processor time. A
job that has to end gets SIGTERM, and SIGKILL after the grace period. The grace period applies to the whole group: a
shell ends on SIGTERM at once, while the program that it started may still clean up.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from io import FileIO

from coordination.base.sizes import show_size
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.runners import orphan_reaper
from workers.runners.base import Control, StopReason
from workers.runners.output import Capture
from workers.runners.process import Launcher, Process, death_sentence
from workers.runners.resource_usage import ResourceMeter
from workers.runners.system_limits import cpu_sentence, ran_out_of_cpu

TRY_LATER_STATUS = os.EX_TEMPFAIL  # 75: the process requests a retry later

# Errors of a full machine or an unavailable file server, which defer the job.
_TRANSIENT = frozenset(
    {
        *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY),
        *(errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO),
    }
)
_LONGEST_NAMED = 300

_CHUNK = 1 << 16
_KILL_PATIENCE = 5.0  # the most time to wait for a process after SIGKILL
_POLL_INTERVAL = 1.0  # seconds
_SLOW_POLL_INTERVAL = 5.0  # without a budget, so that a thousand jobs cost less than a twentieth of a core
_DONE_PATIENCE = 30.0  # how long a program that reported its end may print nothing and not exit
_EXIT_POLL_INTERVAL = 0.1  # where exits cannot be waited for
_SENTENCES = {
    StopReason.SHUTDOWN: "the worker shut down",
    StopReason.STOPPED: "its workspace or project was stopped",
    StopReason.STOPPED_NOW: "its workspace or project was stopped, without a grace",
    StopReason.BUDGET: "no money is left for it",
    StopReason.CANCELED: "canceled",
    StopReason.LEASE_LOST: "the lease was lost",
}


class OutputReader(Enum):
    """The state of a stream after one read."""

    MORE = auto()  # more data may follow
    CLOSED = auto()  # end of file
    DONE = auto()  # the expected answer is complete


Reader = Callable[[int], OutputReader]


@dataclass(frozen=True, slots=True)
class Interruption:
    """Why the worker ended a job."""

    outcome: Outcome
    error: str

    @classmethod
    def stopped(cls, reason: StopReason) -> Interruption:
        """Return the interruption by a stop request."""
        return cls(reason.outcome, _SENTENCES[reason])

    @classmethod
    def timed_out(cls, seconds: float) -> Interruption:
        """Return the interruption by the time limit."""
        return cls(Outcome.TIMED_OUT, f"timed out after {_show_limit(seconds)}")

    @classmethod
    def stalled(cls, seconds: float) -> Interruption:
        """Return the interruption because of missing output."""
        return cls(Outcome.TIMED_OUT, f"no output for {_show_limit(seconds)}")

    def yields_to(self, other: Interruption) -> bool:
        """Return whether the later *other* replaces this one: if the lease is lost, or this is only a hand back."""
        return other.outcome is Outcome.LOST or self.outcome is Outcome.HANDED_BACK


class ProcessWatch:
    """One wait for a process: passes its output to readers, enforces its limits, forwards stop requests.

    *output*: receives the bytes of each stream, which count as progress. *answer*: descriptor and reader of a reply
    that ends the wait. The caller closes all descriptors. *began*: the start of the job in monotonic seconds, if the
    process is reused. *poll*: called regularly. *done*: returns whether the job has reported its end.
    """

    def __init__(
        self,
        process: Process,
        claim: Claim,
        control: Control,
        *,
        output: Mapping[int, Callable[[bytes], None]],
        answer: tuple[int, Reader] | None = None,
        began: float | None = None,
        poll: Callable[[], None] | None = None,
        done: Callable[[], bool] = lambda: False,
    ) -> None:
        self._process = process
        self._control = control
        self._readers = {fd: self._into(feed) for fd, feed in output.items()}
        if answer is not None:
            self._readers[answer[0]] = answer[1]
        self._selector = select.poll()
        limits = control.limits_for(claim)
        is_measured = limits.memory is not None or limits.cpu is not None
        self._meter = ResourceMeter(process, limits, reused=began is not None) if is_measured else None
        self._most = limits.output or 0
        self._room = limits.output or math.inf  # bytes that it may still print
        self._timeout, self._stall = _seconds(claim.timeout), _seconds(claim.stall_timeout)
        self._interruption: Interruption | None = None
        self._reason: StopReason | None = None
        self._answered = False
        self._exited = False
        self._killed = False
        self._others: dict[int, int] = {}
        self._must_poll = False  # some of the others cannot be waited for
        self._began = self._moved_at = time.monotonic() if began is None else began
        self._done = done
        self._poll = poll
        self._poll_interval = poll_interval(control)
        self._poll_at = math.inf if poll is None else self._began + self._poll_interval
        self._end_by = math.inf  # when the grace period ends, or the wait after SIGKILL

    def run(self) -> Interruption | None:
        """Wait until the process has exited or answered. Return its interruption, if any."""
        for fd in (self._control.fileno(), self._process.exit_fd, *self._readers):
            self._selector.register(fd, select.POLLIN)
        try:
            while True:
                now = time.monotonic()
                self._keep_limits(now)
                if self._poll is not None and now >= self._poll_at:
                    self._poll()
                    self._poll_at = now + self._poll_interval
                if self._is_over(now):
                    return self._interruption
                for fd, _ in self._selector.poll(self._patience(now)):
                    self._handle(fd)
        finally:
            for handle in self._others:
                os.close(handle)
            self._others.clear()

    def drain(self, patience: timedelta = timedelta(seconds=1)) -> None:
        """Read the streams until they are closed or *patience* is over.

        A daemon that was not found may keep them open.
        """
        waiter = select.poll()
        for fd in self._readers:
            waiter.register(fd, select.POLLIN)
        deadline = time.monotonic() + patience.total_seconds()
        while self._readers and (remaining := deadline - time.monotonic()) > 0:
            for fd, _ in waiter.poll(remaining * 1000):
                if self._readers[fd](fd) is OutputReader.CLOSED:
                    waiter.unregister(fd)
                    del self._readers[fd]

    def _into(self, feed: Callable[[bytes], None]) -> Reader:
        def read(fd: int) -> OutputReader:
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                return OutputReader.MORE
            if not data:
                return OutputReader.CLOSED
            feed(data)
            self._room -= len(data)
            self._moved_at = time.monotonic()
            self._control.progress()
            return OutputReader.MORE

        return read

    def _handle(self, fd: int) -> None:
        if fd == self._process.exit_fd:
            self._exited = True
            self._selector.unregister(fd)
        elif fd in self._others:
            self._selector.unregister(fd)
            os.close(fd)
            del self._others[fd]
        elif fd in self._readers:
            reading = self._readers[fd](fd)
            if reading is OutputReader.DONE:
                self._answered = True
            elif reading is OutputReader.CLOSED:
                self._selector.unregister(fd)
                del self._readers[fd]
        else:
            self._control.acknowledge()

    def _keep_limits(self, now: float) -> None:
        reason = self._control.stop_reason
        if reason is not self._reason and reason is not None:
            self._reason = reason
            self._interrupt(Interruption.stopped(reason), now, ask=reason is not StopReason.STOPPED_NOW)
        elif self._interruption is None and not self._answered and not self._exited:
            if now >= self._exit_deadline():
                lingered = "it had said that it was done, and did not exit: its process was ended"
                self._interrupt(Interruption(Outcome.COMPLETED, lingered), now)
            elif now - self._began >= self._timeout:
                self._interrupt(Interruption.timed_out(self._timeout), now)
            elif now - self._moved_at >= self._stall:
                self._interrupt(Interruption.stalled(self._stall), now)
            elif self._room < 0:
                flood = Interruption(Outcome.FAILED, f"printed more than {show_size(self._most)}")
                self._interrupt(flood, now, ask=False)
            elif self._meter is not None and now >= self._meter.next_poll and (exceeded := self._meter.exceeded(now)):
                sentence, at_once = exceeded
                self._interrupt(Interruption(Outcome.FAILED, sentence), now, ask=not at_once)
        if self._interruption is not None and not self._killed and now >= self._end_by:
            self._killed = True
            self._process.kill()
            self._end_by = now + _KILL_PATIENCE

    def _exit_deadline(self) -> float:
        """Return when a job that has reported its end must have exited. Its limits may shorten that time."""
        if not self._done():
            return math.inf
        return min(self._moved_at + min(_DONE_PATIENCE, self._stall), self._began + self._timeout)

    def _interrupt(self, interruption: Interruption, now: float, *, ask: bool = True) -> None:
        """End the job. Without *ask*, kill it without a grace period, because it endangers the machine."""
        if (self._answered or self._exited) and self._interruption is None:
            return  # it has ended already
        first = self._interruption is None
        if self._interruption is None or self._interruption.yields_to(interruption):
            self._interruption = interruption
        lost = interruption.outcome is Outcome.LOST
        grace = self._control.lost_grace if lost else self._control.cancel_grace
        if not self._killed:
            self._end_by = min(self._end_by, now + grace.total_seconds() if ask else now)
        if first:
            self._process.terminate()

    def _is_over(self, now: float) -> bool:
        if self._answered or self._interruption is None:
            return self._answered or self._exited
        if self._killed:
            return self._exited or now >= self._end_by
        if not self._exited or self._others:
            return False
        # The leader has exited; the others may still clean up.
        self._must_poll = False
        remaining = self._process.others()
        for pid in remaining:
            handle = orphan_reaper.open_pidfd(pid)
            if handle is None:
                self._must_poll = True
            else:
                self._others[handle] = pid
                self._selector.register(handle, select.POLLIN)
        return not remaining

    def _patience(self, now: float) -> int | None:
        """Return milliseconds until the next deadline, or None."""
        due = min(self._end_by, self._poll_at)
        if self._interruption is None:
            measure_at = math.inf if self._meter is None else self._meter.next_poll
            due = min(due, self._began + self._timeout, self._moved_at + self._stall, self._exit_deadline(), measure_at)
        elif self._must_poll:
            due = min(due, now + _EXIT_POLL_INTERVAL)
        if math.isinf(due):
            return None
        return math.ceil(max(due - now, 0) * 1000)


def poll_interval(control: Control) -> float:
    """Return the seconds between two calls of ``poll``."""
    return _POLL_INTERVAL if control.has_budget else _SLOW_POLL_INTERVAL


def check_limits(
    claim: Claim, control: Control, now: float, *, began: float, moved_at: float
) -> tuple[Interruption | None, float]:
    """Return the interruption by a reached limit or a stop request, and when the next limit is due."""
    timeout, stall_timeout = _seconds(claim.timeout), _seconds(claim.stall_timeout)
    if (reason := control.stop_reason) is not None:
        return Interruption.stopped(reason), math.inf
    if now >= began + timeout:
        return Interruption.timed_out(timeout), math.inf
    if now >= moved_at + stall_timeout:
        return Interruption.stalled(stall_timeout), math.inf
    return None, min(began + timeout, moved_at + stall_timeout)


def _seconds(limit: timedelta | None) -> float:
    return math.inf if limit is None else limit.total_seconds()


def _show_limit(seconds: float) -> str:
    """Format a limit: 1.5 s, 30 s, 30 min, 4 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended. *log*: its stderr."""

    exit_code: int | None
    interruption: Interruption | None
    log: str


def run_program(
    launcher: Launcher,
    arguments: Sequence[str],
    claim: Claim,
    control: Control,
    *,
    variables: Mapping[str, str],
    folder: str,
    feed: Callable[[bytes], None],
    show: Callable[[bytes], None] | None = None,
    stdin: int = subprocess.DEVNULL,
    announced: bool = True,
    write: Sequence[str] | None = None,
    read: Sequence[str] = (),
    poll: Callable[[], None] | None = None,
    done: Callable[[], bool] = lambda: False,
) -> ProgramResult:
    """Run the program to its end. *feed* gets its stdout while it runs, *show* its stderr, which is also kept.

    *announced*: it is the job itself. *write*: paths that it may write in a sandbox; None: its folder. *read*: further
    paths that it may read there. *poll*: called from time to time, and at the end. *done*: returns whether the
    program has reported its end. Raises OSError or ValueError when it cannot be started.
    """
    err, limits = Capture(control.output_limit), control.limits_for(claim)
    # Masked before it is shortened.
    masked_err = None if control.secrets is None else control.secrets.mask_stream(err.feed)

    def feed_err(data: bytes) -> None:
        (masked_err or err.feed)(data)
        if show is not None:
            show(data)

    with contextlib.ExitStack() as stack:
        out_reading, out_writing = _open_pipe(stack)
        err_reading, err_writing = _open_pipe(stack)
        process = launcher.start(
            arguments,
            environment=variables,
            folder=folder,
            stdin=stdin,
            stdout=out_writing.fileno(),
            stderr=err_writing.fileno(),
            limits=limits,
            write=write,
            temporary_in=str(control.scratch),
            read=read,
        )
        out_writing.close()
        err_writing.close()
        watch = ProcessWatch(
            process,
            claim,
            control,
            output={out_reading.fileno(): feed, err_reading.fileno(): feed_err},
            poll=poll,
            done=done,
        )
        try:
            if announced:
                control.note_start(process.record)
            interruption = watch.run()
        finally:
            process.end()
        watch.drain()
        if masked_err is not None:
            masked_err.close()
        if poll is not None:
            poll()  # also for programs that end at once
    if interruption is None and limits.cpu is not None and ran_out_of_cpu(process.exit_code):
        interruption = Interruption(Outcome.FAILED, cpu_sentence(limits.cpu))
    return ProgramResult(process.exit_code, interruption, err.text())


def judge_exit(exit_code: int | None, *, message: str) -> tuple[Outcome, str | None]:
    """Return outcome and error for an exit code. *message*: the last line that the process printed on stderr."""
    if exit_code == 0:
        return Outcome.COMPLETED, None
    if exit_code is None:
        return Outcome.FAILED, "its process did not end"
    if exit_code < 0:
        return Outcome.FAILED, death_sentence(exit_code)
    outcome = Outcome.DEFERRED if exit_code == TRY_LATER_STATUS else Outcome.FAILED
    return outcome, f"exit status {exit_code}: {message}" if message else f"exit status {exit_code}"


def end_if_stopped(control: Control) -> AttemptEnd | None:
    """Return the end of a job that must stop before it began; None if it may run."""
    if control.stop_reason is None:
        return None
    return AttemptEnd(control.stop_reason.outcome, error="stopped before it began", job_started=False)


def refusal_end(sentence: str) -> AttemptEnd:
    """Return a failed end that is not retried."""
    return AttemptEnd(Outcome.FAILED, error=sentence, retryable=False)


def is_transient(error: OSError | ValueError) -> bool:
    """Return whether a retry may succeed."""
    return isinstance(error, OSError) and error.errno in _TRANSIENT


def can_be_entered(folder: str) -> bool:
    """Return whether a job can run in the folder: one system call, because it is on the hot path."""
    return os.access(f"{folder}/.", os.X_OK)


def folder_problem(folder: str) -> str:
    """Return why no job can run in a folder, and what to do."""
    if os.path.isdir(folder):  # noqa: PTH112 - Path's would raise here
        return f"The job's folder {folder} may not be entered by the worker's user: give it the permission (chmod)"
    problem = "is not a folder" if os.path.lexists(folder) else "does not exist on this machine"
    return f"The job's folder {folder} {problem}: make it, or correct workdir or the project's path"


def program_problem(name: str, *, folder: str, path: str) -> str | None:
    """Return why a program cannot be found, and what to do; None when it is found. Paths are relative to *folder*."""
    place = os.path.join(folder, name) if "/" in name else name  # noqa: PTH118 - as the system does
    if shutil.which(place, path=path) is not None:
        return None
    if "/" in name and os.path.isfile(place):  # noqa: PTH113
        return f"{name} is not executable. Make it so with chmod +x {place}"
    return f"{name} is not installed where this worker looks for programs (PATH)"


def cannot_start(error: OSError | ValueError, *, folder: str = "/") -> AttemptEnd:
    """Return the end of a job that could not be started: deferred if the machine is at fault, else failed."""
    if isinstance(error, OSError):
        if is_transient(error):
            return AttemptEnd(
                Outcome.DEFERRED, error=f"No process can be started now: {error.strerror}", job_started=False
            )
        if error.errno == errno.E2BIG:
            return refusal_end("The command and its environment are too long for the system; pass data in a file")
        if isinstance(error.filename, str):
            return refusal_end(_start_problem(error, error.filename, folder))
    return refusal_end(f"The job cannot be started: {error}")


def _start_problem(error: OSError, name: str, folder: str) -> str:
    if name == folder:
        return folder_problem(folder)
    if error.errno == errno.ENOENT:
        with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb") as file:  # noqa: PTH118, PTH123
            first = file.readline(_LONGEST_NAMED)
            if first.startswith(b"#!") and (words := first[2:].split()):
                interpreter = os.fsdecode(words[0])
                return f"{name} cannot be started: the interpreter {interpreter} in its first line is missing"
    return f"{name} cannot be started: {(error.strerror or str(error)).lower()}"


def _open_pipe(stack: contextlib.ExitStack) -> list[FileIO]:
    """Return the reading and the writing end of a new pipe, which *stack* closes."""
    return [stack.enter_context(FileIO(fd, mode)) for fd, mode in zip(os.pipe2(os.O_CLOEXEC), "rw", strict=True)]
