"""A batch of claims that one thread runs, and the watch that splits a batch when one of its jobs takes long.

Also what connects runners to the worker: controls of batches and of single jobs, and how a job's result is collected.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from coordination.base.clock import monotonic, utc_now
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.money.costs import CostRecord
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType
from coordination.services.attempts.end import decide_end
from workers.context import Context
from workers.leases.in_flight import AttemptLocation, EventOrOutput, InFlightAttempt, OutputBuffer
from workers.leases.usage_meter import UsageMeter
from workers.runners import usage_file
from workers.runners.base import Control, ProcessRecord
from workers.runners.usage_file import CostJournal

log = structlog.get_logger()

SPLIT_AFTER = timedelta(milliseconds=100)
_EVERY = 0.05  # seconds
_LARGE = 4_000_000  # bytes
_NEEDS_LEASE = frozenset({Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED})

WaitingEnd = tuple[EndedAttempt, list[EventOrOutput]]
"""The end of an attempt that waits to be written, with the events and output to write before it."""


class Batch:
    """Claims of one project that wait to run, and ends that wait to be written. Thread-safe."""

    def __init__(self, claims: Sequence[InFlightAttempt], *, sent: float, enqueued: bool = True) -> None:
        self._enqueued = enqueued  # it came from a message, and no write has followed yet
        self.sent = sent  # when the claims were requested, in monotonic seconds
        self._lock = threading.Lock()
        self._pending = deque(claims)
        self._finished: list[WaitingEnd] = []
        self._size = 0  # of the results that wait to be written, in bytes, estimated
        self._taken: list[InFlightAttempt] = []
        self._alone_since: float | None = None  # when the job began that runs alone
        self._written_at = monotonic()
        self._write_seconds = 0.0  # of the last write, with the wait for its turn
        first = claims[0].claim
        self.place = AttemptLocation(first.workspace_id, first.project_id, first.project)

    def take(self, most: int) -> list[InFlightAttempt]:
        """Return the next claims to run, at most *most*, in order."""
        with self._lock:
            self._taken = [self._pending.popleft() for _ in range(min(most, len(self._pending)))]
            return self._taken

    def run_alone(self, *, begun: int, began: float) -> None:
        """Requeue all but the first *begun* taken jobs; the last of these runs alone since *began* (monotonic s)."""
        with self._lock:
            self._alone_since = began
            self._put_back(begun)

    def requeue_after(self, count: int) -> None:
        """Requeue the taken claims after the first *count*: they have not begun."""
        with self._lock:
            self._put_back(count)

    def _put_back(self, begun: int) -> None:
        self._pending.extendleft(reversed(self._taken[begun:]))
        self._taken = []

    def add(self, ended: EndedAttempt, notes: list[EventOrOutput], size: int = 0) -> None:
        """Add the end of a job to the next write. *size*: of its result and log, in bytes, estimated."""
        with self._lock:
            self._alone_since = None
            self._size += size
            self._finished.append((ended, notes))

    def end_elsewhere(self) -> None:
        """Note that another process ran the job and has written its end."""
        with self._lock:
            self._alone_since = None

    def take_refill(self) -> bool:
        """Return, once, whether a message was taken since the last write, so that the window has room for another."""
        with self._lock:
            enqueued, self._enqueued = self._enqueued, False
        return enqueued

    def is_last(self) -> bool:
        """Return whether no claim is left to run."""
        with self._lock:
            return not self._pending

    def is_write_due(self, every: timedelta) -> bool:
        """Return whether to write ends now, before the batch is done, because the last write was long ago.

        Slow writes (many threads, one writer) make this interval longer, or each write would carry one task. Large
        results are written at once: everything in a write must fit into one statement.
        """
        with self._lock:
            interval = max(every.total_seconds(), 2 * self._write_seconds)
            return self._size > _LARGE or monotonic() - self._written_at > interval

    def note_write(self, *, began: float) -> None:
        """Note that a write that began at *began* (monotonic seconds) has ended."""
        with self._lock:
            self._written_at = monotonic()
            self._write_seconds = self._written_at - began

    def abandon(self) -> list[Claim]:
        """Remove and return all claims after an error: their leases are left to expire."""
        with self._lock:
            claims = [waiting.claim for waiting in self._pending] + [ended.claim for ended, _ in self._finished]
            self._pending.clear()
            self._finished.clear()
        return claims

    def take_finished(self) -> list[WaitingEnd]:
        """Remove and return the ends that wait to be written."""
        with self._lock:
            finished, self._finished, self._size = self._finished, [], 0
        return finished

    def split(self) -> tuple[list[InFlightAttempt], list[WaitingEnd]] | None:
        """If the running job takes long, remove and return the claims behind it and the waiting ends; else None."""
        with self._lock:
            if self._alone_since is None or monotonic() - self._alone_since < SPLIT_AFTER.total_seconds():
                return None
            waiting = list(self._pending)
            self._pending.clear()
            finished, self._finished, self._size = self._finished, [], 0
        return waiting, finished


class BatchWatch:
    """A thread that checks running batches until they have ended or were split; it sleeps while there is none.

    *split* returns whether it has split the batch, which is then not checked again: a job that runs for hours must not
    cost twenty checks a second.
    """

    def __init__(self, split: Callable[[Batch], bool]) -> None:
        self._split = split
        self._lock = threading.Lock()
        self._batches: set[Batch] = set()
        self._has_batches = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="coord-batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._has_batches.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def watch(self, batch: Batch) -> None:
        with self._lock:
            self._batches.add(batch)
            self._has_batches.set()

    def remove(self, batch: Batch) -> None:
        with self._lock:
            self._batches.discard(batch)
            if not self._batches:
                self._has_batches.clear()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._has_batches.wait()
            self._stopped.wait(_EVERY)
            with self._lock:
                batches = list(self._batches)
            for batch in batches:
                try:
                    if self._split(batch):
                        self.remove(batch)
                except Exception:
                    # Keep the thread alive: attempts that were not written end with their leases at the latest.
                    log.exception("a batch could not be split")


class BatchControl:
    """The BatchRun of a group of claims of one batch, in the order in which they run."""

    def __init__(self, context: Context, batch: Batch, group: Sequence[InFlightAttempt]) -> None:
        self._context = context
        self._batch = batch
        self._group = group
        self.interrupt_fd = thread_wakeup_fd()
        context.in_flight.watch(group, self.interrupt_fd)
        self._note_running(0)

    def close(self) -> None:
        """Note that no job of the group runs any more."""
        self._context.started.end([each.fence for each in self._group])

    def _note_running(self, index: int) -> None:
        """Note which job runs now, so that a crash of this process can be blamed on it."""
        if index:
            self._context.started.end([self._group[index - 1].fence])
        if index < len(self._group):
            self._context.started.begin(*self._group[index].fence)

    def control(self, index: int, *, began: float) -> Control:
        """Return a Control for a job that takes long; the claims behind it may be split off from now on."""
        in_flight = self._group[index]
        self._batch.run_alone(begun=index + 1, began=began)
        control = make_control(self._context, in_flight, began=began)
        self._context.in_flight.attach(in_flight, control)
        return control

    def collect(self, index: int, result: AttemptEnd, took: timedelta, size: int = 0) -> None:
        """Keep the result for the next write."""
        self._note_running(index + 1)
        collect_result(self._context, self._batch, self._group[index], result, took, size=size)


def collect_result(
    context: Context, batch: Batch, in_flight: InFlightAttempt, result: AttemptEnd, took: timedelta, *, size: int = 0
) -> None:
    """Learn the job's duration and add its end to the next write. *size*: of its result, in bytes, estimated."""
    claim = in_flight.claim
    if result.outcome in _NEEDS_LEASE and context.in_flight.has_lapsed(in_flight, context.terms.ttl):
        # Others may have ended the job since, in whole or in part, so its result cannot be trusted.
        error = "its lease was not renewed in time (its worker was stopped, or cut off from the database)"
        result = AttemptEnd(Outcome.LOST, error=error, usage=result.usage, log=result.log)
    if result.job_started:
        context.duration_stats.learn(batch.place.project_id, claim.kind, took)
    costs: tuple[CostRecord, ...] | None = None
    recorded: tuple[CostRecord, ...] = ()
    usage_meter = in_flight.usage_meter
    if usage_meter is None and result.usage:
        usage_meter = UsageMeter(claim, context.prices)
    if usage_meter is not None:
        costs, recorded = usage_meter.final_costs(result.usage)
        result = usage_meter.apply_shortage(result, [*recorded, *costs])
        if remarks := usage_meter.warnings():
            result = replace(result, log=usage_file.with_warnings(result.log or "", remarks))
            for remark in remarks:
                context.in_flight.note(in_flight, EventType.PROGRESS, {"usage": remark})
    ended = decide_end(claim, result, now=utc_now(), took=took, costs=costs, recorded_costs=recorded)
    batch.add(ended, context.in_flight.begin_end(in_flight), size)


def make_control(context: Context, in_flight: InFlightAttempt | None, *, began: float | None = None) -> Control:
    """Return the Control of *in_flight*; None: one that only carries the settings, for a batch."""
    settings = context.settings
    new_control = partial(
        Control,
        scratch=context.scratch,
        cancel_grace=settings.cancel_grace,
        output_limit=settings.output_limit,
        limits=settings.limits(),
    )
    if in_flight is None:
        return new_control()

    def note_start(process: ProcessRecord) -> None:
        in_flight.process = process
        context.in_flight.note(in_flight, EventType.STARTED, {"pid": process.pid}, at=began)

    def note_progress() -> None:
        in_flight.made_progress = True

    def note_event(type_: EventType, payload: dict[str, Any]) -> None:
        in_flight.made_progress = True
        context.in_flight.note(in_flight, type_, payload, at=monotonic())

    def is_settled() -> bool:
        if usage_meter.is_settled:
            return True
        context.in_flight.hurry.set()
        return False

    usage_meter = in_flight.usage_meter = UsageMeter(
        in_flight.claim, context.prices, CostJournal(context.scratch, in_flight.fence)
    )
    output = in_flight.output_buffer = OutputBuffer(
        settings.output_limit,
        began=monotonic() if began is None else began,
        elsewhere=not in_flight.claim.job_kind.asks_a_model,
    )
    return new_control(
        on_remember=partial(context.in_flight.add_carry, in_flight),
        on_output=output.feed,
        on_usage=usage_meter.set_usage,
        is_settled=is_settled if in_flight.claim.budgeted else None,
        on_start=note_start,
        on_progress=note_progress,
        on_event=note_event,
    )


class _EventFd:
    """Closes its descriptor with its thread: threads of prefetch recovery live for one task only."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)


_thread_data = threading.local()


def thread_wakeup_fd() -> int:
    """Return the calling thread's descriptor, unreadable until the next stop request. All its batches share it."""
    if not hasattr(_thread_data, "event"):
        _thread_data.event = _EventFd()
    descriptor: int = _thread_data.event.fd
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(descriptor)  # a request that the last batch did not handle
    return descriptor
