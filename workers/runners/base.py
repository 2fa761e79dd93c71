"""The contract between a worker and its runners: the Runner protocol, and Control for one attempt.

A runner turns a Claim into an AttemptEnd. It is called in a thread of the worker, blocks until the job has ended and
does not use the store. ``Control`` passes stop requests to the runner, and output, events and usage to the worker.
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
from typing import Any, Protocol, Self

from coordination.domain.jobs.output import Stream
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits, limits_of
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome, Usage
from coordination.domain.tasks.events import EventType
from workers.runners.secret_masking import MaskedStream, Secrets

DEFAULT_OUTPUT_LIMIT = 256 * 1024


class StopReason(StrEnum):
    """Why a running job must end. Later members override earlier ones."""

    SHUTDOWN = "shutdown"  # the worker shuts down and hands the job back
    STOPPED = "stopped"  # its workspace or project is stopped: handed back, and the worker goes on
    STOPPED_NOW = "stopped_now"  # the same, without a grace period
    BUDGET = "budget"  # no budget is left for its next call
    CANCELED = "canceled"  # the task was canceled
    LEASE_LOST = "lease_lost"  # another worker may own the task by now: end it fast

    @property
    def outcome(self) -> Outcome:
        """Return the outcome of an attempt that ends for this reason."""
        return _OUTCOMES.get(self, Outcome.HANDED_BACK)


_OUTCOMES = {
    StopReason.BUDGET: Outcome.DEFERRED,
    StopReason.CANCELED: Outcome.CANCELED,
    StopReason.LEASE_LOST: Outcome.LOST,
}
STOPPED = {False: StopReason.STOPPED, True: StopReason.STOPPED_NOW}
"""The reason of a stop, by whether it is immediate (without a grace period)."""

_BY_PRIORITY = tuple(StopReason)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """Identifies a job's processes. It is stored with the attempt once they have started.

    ``start_time`` is the leader's, in clock ticks since boot (field 22 of /proc/PID/stat), and detects a reused pid.
    ``marker`` is a NAME=value that all descendants have in their environment.
    """

    pid: int
    pgid: int
    start_time: int
    marker: str


@dataclass(frozen=True, slots=True)
class ReportAddress:
    """Where a job reports: address, token of the attempt, and a folder with ``coord`` if the job's PATH has none."""

    url: str
    token: str
    programs: str | None = None


class Control:
    """Connects worker and runner for one attempt; thread-safe. Close it, or use it as a context manager.

    ``secrets``: set by the runner that passes them to the job; they are masked in everything that goes through here.
    ``process``: the leader of the job's processes, once it has started. ``news``: returns a text for the answer to the
    job's next report. ``scratch``: the attempt's private folder, deleted with it; for a batch, the worker's folder,
    made if missing, where each job deletes its own files. ``output_limit``: bytes that are kept of each stream and of
    a function's return value. ``limits``: upper limits for every job of this worker. ``stop_reason``: why the job must
    end, or None while it may run. ``progress``: notes that the job is making progress, which resets its stall timeout.
    """

    def __init__(
        self,
        *,
        scratch: Path,
        cancel_grace: timedelta = timedelta(seconds=10),
        lost_grace: timedelta = timedelta(milliseconds=500),
        output_limit: int = DEFAULT_OUTPUT_LIMIT,
        limits: Limits = NO_LIMITS,
        on_start: Callable[[ProcessRecord], None] | None = None,
        on_progress: Callable[[], None] = lambda: None,
        on_event: Callable[[EventType, dict[str, Any]], None] | None = None,
        on_remember: Callable[[Mapping[str, Any]], None] | None = None,
        on_output: Callable[[Stream, bytes], None] | None = None,
        on_usage: Callable[[Sequence[Usage]], None] | None = None,
        is_settled: Callable[[], bool] | None = None,
    ) -> None:
        self.scratch = scratch
        self.cancel_grace = cancel_grace
        self.lost_grace = lost_grace
        self.output_limit = output_limit
        self.limits = limits
        self.secrets: Secrets | None = None
        self.process: ProcessRecord | None = None
        self.news: Callable[[], str | None] | None = None
        self.stop_reason: StopReason | None = None
        self.progress = on_progress
        self._on_start = on_start
        self._on_event = on_event
        self._on_remember = on_remember
        self._on_output = on_output
        self._on_spent = on_usage
        self._is_settled = is_settled
        self._lock = threading.Lock()
        self._report_address: ReportAddress | None = None
        self._open_reports: Callable[[], ReportAddress] | None = None
        self._stop_requested = threading.Event()
        self._wake = -1
        self._closed = False
        self._streams: dict[Stream, MaskedStream] = {}
        self._usage_lock = threading.Lock()
        self._usage_parts: dict[str, Sequence[Usage]] = {}

    def offer_reports(self, open_reports: Callable[[], ReportAddress] | None) -> None:
        """Let the job report from now on; *open_reports* is called when a runner first needs the address.

        None ends it.
        """
        self._report_address, self._open_reports = None, open_reports

    @property
    def report_address(self) -> ReportAddress | None:
        """Return where the job may report, or None. Opens the socket on first use. Raises OSError."""
        if self._report_address is None and self._open_reports is not None:
            self._report_address = self._open_reports()
        return self._report_address

    def writable_paths(self, folder: str) -> list[str]:
        """Return the paths that the job may write in a sandbox: *folder* and the attempt's scratch folder."""
        return [folder, str(self.scratch)]

    def limits_for(self, claim: Claim) -> Limits:
        """Return the job's limits: those of its plan, at most the worker's."""
        return limits_of(claim.options).within(self.limits) if "limits" in claim.options else self.limits

    def stop(self, reason: StopReason) -> None:
        """Request the end of the job and return at once. Only a later member of StopReason replaces an earlier one."""
        with self._lock:
            earlier = self.stop_reason
            if self._closed or (earlier is not None and _BY_PRIORITY.index(reason) <= _BY_PRIORITY.index(earlier)):
                return
            self.stop_reason = reason
            self._stop_requested.set()
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def wait(self, timeout: timedelta) -> StopReason | None:
        """Block until the job must end or *timeout* is over, for callers without a file descriptor to wait on."""
        self._stop_requested.wait(timeout.total_seconds())
        return self.stop_reason

    def fileno(self) -> int:
        """Return a descriptor for poll() that becomes readable at each new reason to stop."""
        with self._lock:
            if self._wake < 0:
                self._wake = os.eventfd(0 if self.stop_reason is None else 1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return self._wake

    def acknowledge(self) -> None:
        """Make the descriptor unreadable again after a reason was handled."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def note_start(self, process: ProcessRecord) -> None:
        """Note that the job's process has started."""
        self.process = process
        if self._on_start is not None:
            self._on_start(process)

    def mask(self, value: Any) -> Any:
        """Return *value*, a text or JSON value, with the job's secrets masked."""
        return value if self.secrets is None else self.secrets.hide(value)

    def event(self, type_: EventType, payload: dict[str, Any]) -> None:
        """Write an event to the task's event log."""
        if self._on_event is not None:
            self._on_event(type_, self.mask(payload))

    def remember(self, carry: Mapping[str, Any]) -> None:
        """Store *carry* for the task's next attempt now, like ``AttemptEnd.carry_over``, in case this one is lost."""
        if self._on_remember is not None:
            self._on_remember(self.mask(carry))

    def show_output(self, stream: Stream, data: bytes) -> None:
        """Pass on what the job printed. A possible beginning of a secret is withheld until more output follows."""
        if self._on_output is None:
            return
        if self.secrets is None:
            self._on_output(stream, data)
            return
        if stream not in self._streams:
            self._streams[stream] = self.secrets.mask_stream(partial(self._on_output, stream))
        self._streams[stream](data)

    def record_usage(self, used: Iterable[Usage], *, part: str = "") -> None:
        """Replace the usage of one *part* of the attempt: the job itself (""), or a side command, named by its file.

        The sum over all parts is written to the store from time to time, so that a crash does not lose it.
        """
        if self._on_spent is not None:
            with self._usage_lock:
                self._usage_parts[part] = tuple(used) if self.secrets is None else self.secrets.hide_usage(used)
                self._on_spent([usage for usages in self._usage_parts.values() for usage in usages])

    def is_settled(self) -> bool:
        """Return whether all usage is charged to the budgets, so that another call may be made; else speed it up."""
        return self._is_settled is None or self._is_settled()

    @property
    def has_budget(self) -> bool:
        """Return whether a budget limits the attempt."""
        return self._is_settled is not None

    def close(self) -> None:
        """Close the descriptor and pass on withheld output. Later stop requests are ignored."""
        for stream in self._streams.values():
            stream.close()
        with self._lock:
            self._closed = True
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class BatchRun(Protocol):
    """Connects worker and runner for a batch of claims that run one after the other."""

    @property
    def interrupt_fd(self) -> int:
        """Return a descriptor that becomes readable when a job of the batch must stop."""
        ...

    def control(self, index: int, *, began: float) -> Control:
        """Return a Control for one job that takes long and began at *began* (monotonic seconds)."""
        ...

    def collect(self, index: int, result: AttemptEnd, took: timedelta, size: int = 0) -> None:
        """Take the result of a job, in order. *took*: the job's own time; *size*: of the result, bytes, estimated."""
        ...


class Runner(Protocol):
    """Executes one kind of job."""

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Execute the claimed job and return how it ended. Raises only for bugs of the runner, never for the job's."""
        ...
