"""What a runner is given and how it is told to stop: the contract between a worker and the jobs it executes.

A runner turns a Claim into an AttemptEnd. It is called in a thread of the worker and blocks until the job is over; it
knows nothing of the store. ``Control`` is its line to the worker: requests to stop come in, signs of life go out.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from coordination.domain.jobs.output import Stream
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits, limits_of
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome, Usage
from coordination.domain.tasks.events import EventType
from workers.runners import secret_masking

DEFAULT_OUTPUT_LIMIT = 256 * 1024


class StopReason(StrEnum):
    """Why a running job is asked to end; later members overrule earlier ones."""

    SHUTDOWN = "shutdown"  # the worker goes away and hands the job back
    STOPPED = "stopped"  # its workspace or project is stopped: as above, and the worker stays
    STOPPED_NOW = "stopped_now"  # the same, without a grace
    BUDGET = "budget"  # no money is left for what it would spend next
    CANCELED = "canceled"  # the task was canceled
    LEASE_LOST = "lease_lost"  # somebody else may hold the task by now: end it fast

    @property
    def outcome(self) -> Outcome:
        """How the attempt counts when it ends for this reason."""
        return _OUTCOMES[self]


_OUTCOMES: Mapping[StopReason, Outcome] = {
    StopReason.SHUTDOWN: Outcome.HANDED_BACK,
    StopReason.STOPPED: Outcome.HANDED_BACK,
    StopReason.STOPPED_NOW: Outcome.HANDED_BACK,
    StopReason.BUDGET: Outcome.DEFERRED,
    StopReason.CANCELED: Outcome.CANCELED,
    StopReason.LEASE_LOST: Outcome.LOST,
}
STOPPED = {False: StopReason.STOPPED, True: StopReason.STOPPED_NOW}
"""What a stop asks for, by whether it is without a grace."""

_LADDER = tuple(StopReason)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """Enough to find a job's processes again: stored, it lets a host end what a dead worker left.

    ``start_time`` is the leader's, in clock ticks since boot (field 22 of /proc/PID/stat): with it a reused pid is
    told apart. ``marker`` is the NAME=value that all its descendants carry in their environment.
    """

    pid: int
    pgid: int
    start_time: int
    marker: str


@dataclass(frozen=True, slots=True)
class ReportAddress:
    """Where a job reports: an address, the attempt's token, and a folder with ``coord`` if its PATH has none."""

    url: str
    token: str
    programs: str | None = None


class Control:
    """One attempt's line between worker and runner; thread-safe. Close it, or use it as a context manager.

    ``secrets``: what its job must not tell, set by the runner that gives it to the job; it is hidden in all that is
    said over this line. ``process``: the leader of its processes, once there is one. ``news``: asked at a report for
    what its job should know now.
    ``scratch``: the attempt's own folder, which goes with it; for a batch, that of the worker, made when it is missing,
    from which every job takes its own files away again. ``output_limit`` bounds what is kept of each stream, and a
    function's return value, in bytes. ``limits``: what any job of this worker may use at most.
    """

    def __init__(
        self,
        *,
        scratch: Path,
        cancel_grace: timedelta = timedelta(seconds=10),
        lost_grace: timedelta = timedelta(milliseconds=500),
        output_limit: int = DEFAULT_OUTPUT_LIMIT,
        limits: Limits = NO_LIMITS,
        on_started: Callable[[ProcessRecord], None] | None = None,
        on_progress: Callable[[], None] | None = None,
        on_event: Callable[[EventType, dict[str, Any]], None] | None = None,
        on_remember: Callable[[Mapping[str, Any]], None] | None = None,
        on_output: Callable[[Stream, bytes], None] | None = None,
        on_spent: Callable[[Sequence[Usage]], None] | None = None,
        is_paid: Callable[[], bool] | None = None,
    ) -> None:
        self.scratch = scratch
        self.cancel_grace = cancel_grace
        self.lost_grace = lost_grace
        self.output_limit = output_limit
        self.limits = limits
        self.secrets = secret_masking.NONE
        self.process: ProcessRecord | None = None
        self.news: Callable[[], str | None] | None = None
        self._on_started = on_started
        self._on_progress = on_progress
        self._on_event = on_event
        self._on_remember = on_remember
        self._on_output = on_output
        self._on_spent = on_spent
        self._is_paid = is_paid
        self._lock = threading.Lock()
        self._line: ReportAddress | None = None
        self._open_line: Callable[[], ReportAddress] | None = None
        self._asked = threading.Event()
        self._reason: StopReason | None = None
        self._wake = -1
        self._closed = False
        self._streams: dict[Stream, secret_masking.Hiding] = {}
        self._spending = threading.Lock()
        self._parts: dict[str, Sequence[Usage]] = {}

    def offer_line(self, open_line: Callable[[], ReportAddress] | None) -> None:
        """Let the job report from here on, over what *open_line* opens once it is needed; None: no more."""
        self._line, self._open_line = None, open_line

    @property
    def line(self) -> ReportAddress | None:
        """Where the job may report, if it may: opened when a runner first asks. Raises OSError."""
        if self._line is None and self._open_line is not None:
            self._line = self._open_line()
        return self._line

    def places(self, folder: str) -> list[str]:
        """Return all places that this attempt's processes may change in a sandbox: *folder* and the attempt's own."""
        return [folder, str(self.scratch)]

    def limits_for(self, claim: Claim) -> Limits:
        """What this job may use: as its plan says, and no more than the worker allows."""
        return limits_of(claim.options).within(self.limits) if "limits" in claim.options else self.limits

    def stop(self, reason: StopReason) -> None:
        """Ask the job to end. Returns at once; a graver reason overrules, a lesser one changes nothing."""
        with self._lock:
            if self._closed or (self._reason is not None and _LADDER.index(reason) <= _LADDER.index(self._reason)):
                return
            self._reason = reason
            self._asked.set()
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the job must end, or None while it may go on."""
        return self._reason

    @property
    def stop_requested(self) -> bool:
        """Whether the job must end."""
        return self._reason is not None

    def wait(self, timeout: timedelta | None = None) -> StopReason | None:
        """Block until the job must end or *timeout* is over: for runners that have no file descriptor to wait on."""
        self._asked.wait(None if timeout is None else timeout.total_seconds())
        return self._reason

    def fileno(self) -> int:
        """A descriptor that turns readable whenever there is a new reason to stop; for poll()."""
        with self._lock:
            if self._wake < 0:
                self._wake = os.eventfd(0 if self._reason is None else 1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return self._wake

    def acknowledge(self) -> None:
        """Make the descriptor unreadable again, after the reason was seen."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def started(self, process: ProcessRecord) -> None:
        """The job's process runs."""
        self.process = process
        if self._on_started is not None:
            self._on_started(process)

    def progress(self) -> None:
        """The job moved: output arrived."""
        if self._on_progress is not None:
            self._on_progress()

    def event(self, type_: EventType, payload: dict[str, Any]) -> None:
        """Write a line into the task's story."""
        if self._on_event is not None:
            self._on_event(type_, self.secrets.hide(payload))

    def remember(self, left: Mapping[str, Any]) -> None:
        """Leave this to the task's next attempt, even if this one is lost: as ``AttemptEnd.carry_over``, at once."""
        if self._on_remember is not None:
            self._on_remember(self.secrets.hide(left))

    def printed(self, stream: Stream, data: bytes) -> None:
        """Show what the job printed to whoever follows it; what may be the beginning of a secret waits for the rest."""
        if self._on_output is None:
            return
        if stream not in self._streams:
            self._streams[stream] = self.secrets.hiding(partial(self._on_output, stream))
        self._streams[stream](data)

    def spent(self, used: Iterable[Usage], *, part: str = "") -> None:
        """All that one part of the attempt has used so far: the job itself, or what surrounds it, named by its file.

        It is added to what the other parts have used, and written down now and then, so that no death loses it.
        """
        if self._on_spent is not None:
            with self._spending:
                self._parts[part] = tuple(self.secrets.hide_usage(used))
                self._on_spent([one for each in self._parts.values() for one in each])

    def paid(self) -> bool:
        """Whether what it has spent is settled with its budgets, and another call may be made; else that is hurried."""
        return self._is_paid is None or self._is_paid()

    @property
    def has_budget(self) -> bool:
        """Whether a budget waits for what it spends."""
        return self._is_paid is not None

    def close(self) -> None:
        """Give the descriptor back, show what waits; requests to stop are ignored from here on."""
        for stream in self._streams.values():
            stream.close()
        with self._lock:
            self._closed = True
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BatchRun(Protocol):
    """What a runner of batches is given besides the claims: one line to the worker for all of them."""

    @property
    def interrupted(self) -> int:
        """A descriptor that is readable once a job of the batch was told to stop."""
        ...

    def control(self, index: int, *, began: float) -> Control:
        """The line of one job, for which it is time to look after it alone; it began at *began* (monotonic seconds)."""
        ...

    def ended(self, index: int, result: AttemptEnd, took: timedelta, size: int = 0) -> None:
        """The jobs end in their order; *took* is the job's own time, *size* about that of its result in bytes."""
        ...


class Runner(Protocol):
    """Executes one kind of job."""

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Execute the claimed job and say how it ended. Raises for bugs of its own only, never for the job's."""
        ...
