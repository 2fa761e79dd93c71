"""Connects runners to the worker: controls of batches and of single jobs, and how a job's result is collected."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from coordination.base.clock import monotonic, utc_now
from coordination.domain.money.costs import CostRecord
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.events import EventType
from coordination.services.attempts.decide import decide_end
from workers.context import Context
from workers.engine.batch import Batch
from workers.leases.in_flight import InFlightAttempt
from workers.leases.output_buffer import OutputBuffer
from workers.leases.usage_meter import UsageMeter
from workers.runners import usage_file
from workers.runners.base import Control, ProcessRecord
from workers.runners.cost_reports import CostJournal

_NEEDS_LEASE = frozenset({Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED})


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
