"""Waits for a job's process: feeds its output to readers, keeps its time limits, passes on requests to stop.

One thread sleeps in one poll() on everything that can happen (output, exit, a request to stop), so thirty-two waiting
jobs cost nothing. A job that has to end is asked with SIGTERM; what is left after the grace is killed. The grace
belongs to the whole group: a shell dies of SIGTERM at once, while the program it started is still tidying up.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from coordination.base.sizes import show_size
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits
from coordination.domain.tasks.attempts import Outcome
from workers.runners import orphan_reaper
from workers.runners.base import Control, StopReason
from workers.runners.process import Process
from workers.runners.resource_usage import ResourceMeter

_CHUNK = 1 << 16
_KILL_PATIENCE = 5.0  # how long a process may take to die of SIGKILL before nobody waits for it any more
_GLANCE_EVERY = 1.0
_GLANCE_SELDOM = 5.0  # where no budget waits for what is seen: a thousand jobs are not to cost a twentieth of a core
_DONE_PATIENCE = 30.0  # how long a program that has said it is done may say nothing and not exit
_LOOK_AGAIN = 0.1  # where exits cannot be waited for
_SENTENCES = {
    StopReason.SHUTDOWN: "the worker shut down",
    StopReason.STOPPED: "its workspace or project was stopped",
    StopReason.STOPPED_NOW: "its workspace or project was stopped, without a grace",
    StopReason.BUDGET: "no money is left for it",
    StopReason.CANCELED: "canceled",
    StopReason.LEASE_LOST: "the lease was lost",
}


class OutputReader(Enum):
    """What came of reading a stream once."""

    MORE = auto()  # something may follow
    CLOSED = auto()  # end of file
    DONE = auto()  # the answer that was waited for is complete


Reader = Callable[[int], OutputReader]


@dataclass(frozen=True, slots=True)
class Interruption:
    """Why the job was ended from outside."""

    outcome: Outcome
    error: str

    @classmethod
    def asked(cls, reason: StopReason) -> Interruption:
        """The worker asked for it."""
        return cls(reason.outcome, _SENTENCES[reason])

    @classmethod
    def too_long(cls, limit: timedelta) -> Interruption:
        """The job took longer than it may."""
        return cls(Outcome.TIMED_OUT, f"timed out after {show(limit)}")

    @classmethod
    def stalled(cls, limit: timedelta) -> Interruption:
        """The job said nothing for longer than it may."""
        return cls(Outcome.TIMED_OUT, f"no output for {show(limit)}")

    @classmethod
    def lingered(cls) -> Interruption:
        """The job had said that it was done, and its process did not exit."""
        return cls(Outcome.COMPLETED, "it had said that it was done, and did not exit: its process was ended")

    def yields_to(self, other: Interruption) -> bool:
        """Whether *other*, which came later, is what counts: the lease is lost, or it was only being handed back."""
        return other.outcome is Outcome.LOST or self.outcome is Outcome.HANDED_BACK


class ProcessWatch:
    """One wait. *output*: what to feed with the bytes of each stream; they count as signs of life. *answer*: the
    descriptor and reader of a reply that ends the wait. All descriptors stay their owner's to close. *began*: when
    the job did, in monotonic seconds, if that was not now: then the process has worked before. *glance*: called now
    and then while it runs. *done*: whether the job has said that it is done, so that its process should exit.
    """

    def __init__(
        self,
        process: Process,
        control: Control,
        *,
        output: Mapping[int, Callable[[bytes], None]],
        answer: tuple[int, Reader] | None = None,
        timeout: timedelta | None,
        stall_timeout: timedelta | None,
        began: float | None = None,
        limits: Limits = NO_LIMITS,
        glance: Callable[[], None] | None = None,
        done: Callable[[], bool] | None = None,
    ) -> None:
        self._process = process
        self._control = control
        self._readers = {fd: self._into(feed) for fd, feed in output.items()}
        if answer is not None:
            self._readers[answer[0]] = answer[1]
        self._poll = select.poll()
        self._meter = ResourceMeter(process, limits, reused=began is not None)
        self._most = limits.output or 0
        self._room = limits.output or math.inf  # bytes that it may still print
        self._timeout = timeout
        self._stall = stall_timeout
        self._interruption: Interruption | None = None
        self._reason: StopReason | None = None
        self._answered = False
        self._exited = False
        self._killed = False
        self._others: dict[int, int] = {}
        self._blind = False  # some of the others cannot be waited for
        self._began = self._moved_at = time.monotonic() if began is None else began
        self._done = done or _never
        self._glance = glance
        self._glance_every = glance_every(control)
        self._glance_at = math.inf if glance is None else self._began + self._glance_every
        self._end_by = math.inf  # when asking is over and killing begins, or waiting for the killed ends

    def run(self) -> Interruption | None:
        """Wait until the process has exited or has answered. Returns what interrupted it, if anything did."""
        for fd in (self._control.fileno(), self._process.exit_fd, *self._readers):
            self._poll.register(fd, select.POLLIN)
        try:
            while True:
                now = time.monotonic()
                self._keep_limits(now)
                if self._glance is not None and now >= self._glance_at:
                    self._glance()
                    self._glance_at = now + self._glance_every
                if self._is_over(now):
                    return self._interruption
                for fd, _ in self._poll.poll(self._patience(now)):
                    self._handle(fd)
        finally:
            for handle in self._others:
                os.close(handle)
            self._others.clear()

    def drain(self, patience: timedelta = timedelta(seconds=1)) -> None:
        """Read what is left in the streams, until they are closed or *patience* is over.

        Somebody may hold them open for ever: a daemon that could not be found.
        """
        waiter = select.poll()
        for fd in self._readers:
            waiter.register(fd, select.POLLIN)
        deadline = time.monotonic() + patience.total_seconds()
        while self._readers and (left := deadline - time.monotonic()) > 0:
            for fd, _ in waiter.poll(left * 1000):
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
            self._poll.unregister(fd)
        elif fd in self._others:
            self._poll.unregister(fd)
            os.close(fd)
            del self._others[fd]
        elif fd in self._readers:
            reading = self._readers[fd](fd)
            if reading is OutputReader.DONE:
                self._answered = True
            elif reading is OutputReader.CLOSED:
                self._poll.unregister(fd)
                del self._readers[fd]
        else:
            self._control.acknowledge()

    def _keep_limits(self, now: float) -> None:
        reason = self._control.stop_reason
        if reason is not self._reason and reason is not None:
            self._reason = reason
            self._interrupt(Interruption.asked(reason), now, ask=reason is not StopReason.STOPPED_NOW)
        elif self._interruption is None and not self._answered and not self._exited:
            if now >= self._leaves_by():
                self._interrupt(Interruption.lingered(), now)
            elif self._timeout is not None and now - self._began >= self._timeout.total_seconds():
                self._interrupt(Interruption.too_long(self._timeout), now)
            elif self._stall is not None and now - self._moved_at >= self._stall.total_seconds():
                self._interrupt(Interruption.stalled(self._stall), now)
            elif self._room < 0:
                flood = Interruption(Outcome.FAILED, f"printed more than {show_size(self._most)}")
                self._interrupt(flood, now, ask=False)
            elif now >= self._meter.next_look and (found := self._meter.exceeded(now)) is not None:
                self._interrupt(Interruption(Outcome.FAILED, found[0]), now, ask=not found[1])
        if self._interruption is not None and not self._killed and now >= self._end_by:
            self._killed = True
            self._process.kill()
            self._end_by = now + _KILL_PATIENCE

    def _leaves_by(self) -> float:
        """When a job that has said it is done has had the time to exit, which its limits may shorten."""
        if not self._done():
            return math.inf
        silence = _DONE_PATIENCE if self._stall is None else min(_DONE_PATIENCE, self._stall.total_seconds())
        by = self._moved_at + silence
        return by if self._timeout is None else min(by, self._began + self._timeout.total_seconds())

    def _interrupt(self, interruption: Interruption, now: float, *, ask: bool = True) -> None:
        """End it; unless *ask*, without a grace, because the machine cannot wait for what it does meanwhile."""
        if (self._answered or self._exited) and self._interruption is None:
            return  # too late: it has ended by itself
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
        # The leader heard; who of the others is still tidying up?
        self._blind = False
        remaining = self._process.others()
        for pid in remaining:
            handle = orphan_reaper.open_pidfd(pid)
            if handle is None:
                self._blind = True
            else:
                self._others[handle] = pid
                self._poll.register(handle, select.POLLIN)
        return not remaining

    def _patience(self, now: float) -> int | None:
        """Milliseconds until something is due; None when nothing is."""
        due = min(self._end_by, self._glance_at)
        if self._interruption is None:
            if self._timeout is not None:
                due = min(due, self._began + self._timeout.total_seconds())
            if self._stall is not None:
                due = min(due, self._moved_at + self._stall.total_seconds())
            due = min(due, self._meter.next_look, self._leaves_by())
        elif self._blind:
            due = min(due, now + _LOOK_AGAIN)
        if math.isinf(due):
            return None
        return math.ceil(max(due - now, 0) * 1000)


def glance_every(control: Control) -> float:
    """How many seconds lie between two glances at what a job reports."""
    return _GLANCE_EVERY if control.has_budget else _GLANCE_SELDOM


def _never() -> bool:
    return False


def show(duration: timedelta) -> str:
    """A limit as a person would say it: 1.5 s, 30 s, 30 min, 4 h."""
    seconds = duration.total_seconds()
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
