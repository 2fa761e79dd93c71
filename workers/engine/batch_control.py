"""A batch's line to the worker: what a runner of batches is given, and how orders reach the job that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from coordination.base.clock import monotonic, utc_now
from coordination.domain.money.costs import CostRecord
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.events import EventType
from coordination.services.attempts.decide import decide_end
from workers.context import Context
from workers.engine.batch import Batch
from workers.engine.thread_wakeup import wake
from workers.leases.in_flight import InFlightAttempt
from workers.leases.output_buffer import OutputBuffer
from workers.leases.usage_meter import UsageMeter
from workers.runners import usage_file
from workers.runners.base import Control, ProcessRecord
from workers.runners.cost_reports import CostJournal

_OF_A_LEASE = frozenset({Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED})


class BatchControl:
    """The board of some claims of a bundle, in the order in which they run."""

    def __init__(self, context: Context, bundle: Batch, batch: Sequence[InFlightAttempt]) -> None:
        self._context = context
        self._bundle = bundle
        self._batch = batch
        self.interrupted = wake()
        context.held.watch(batch, self.interrupted)
        self._note(0)

    def close(self) -> None:
        """Nothing of the batch runs any more."""
        self._context.started.end([(held.claim.task_id, held.claim.attempt) for held in self._batch])

    def _note(self, index: int) -> None:
        """Note which job runs from here on, for whoever asks which one ended this process."""
        if index:
            ended = self._batch[index - 1].claim
            self._context.started.end([(ended.task_id, ended.attempt)])
        if index < len(self._batch):
            claim = self._batch[index].claim
            self._context.started.begin(claim.task_id, claim.attempt)

    def control(self, index: int, *, began: float) -> Control:
        """The job is not that short: from here on it has its own line, and what waits behind it may be relieved."""
        held = self._batch[index]
        self._bundle.singled_out(begun=index + 1, began=began)
        control = make_control(self._context, held, began=began)
        self._context.held.attach(held, control)
        return control

    def ended(self, index: int, result: AttemptEnd, took: timedelta, size: int = 0) -> None:
        """Keep the result for the next write."""
        self._note(index + 1)
        keep(self._context, self._bundle, self._batch[index], result, took, size=size)


def keep(
    context: Context, bundle: Batch, held: InFlightAttempt, result: AttemptEnd, took: timedelta, *, size: int = 0
) -> None:
    """One job is over: learn from it, and keep its end for the next write; *size*: of its result, in bytes, about."""
    claim = held.claim
    if result.outcome in _OF_A_LEASE and context.held.has_lapsed(held, context.terms.ttl):
        # Others may have ended the job, or parts of it, since: what it returned says nothing.
        error = "its lease was not renewed in time (its worker was stopped, or cut off from the database)"
        result = AttemptEnd(Outcome.LOST, error=error, usage=result.usage, log=result.log)
    if result.job_started:
        context.kinds.learn(bundle.place.project_id, claim.kind, took)
    costs: tuple[CostRecord, ...] | None = None
    recorded: tuple[CostRecord, ...] = ()
    usage_meter = held.usage_meter
    if usage_meter is None and result.usage:
        usage_meter = UsageMeter(claim, context.prices)
    if usage_meter is not None:
        costs, recorded = usage_meter.final_costs(result.usage)
        result = usage_meter.apply_shortage(result, [*recorded, *costs])
        if remarks := usage_meter.warnings():
            result = replace(result, log=usage_file.with_warnings(result.log or "", remarks))
            for remark in remarks:
                context.held.note(held, EventType.PROGRESS, {"usage": remark})
    ended = decide_end(claim, result, now=utc_now(), took=took, costs=costs, recorded_costs=recorded)
    bundle.add(ended, context.held.begin_end(held), size)


def make_control(context: Context, held: InFlightAttempt | None, *, began: float | None = None) -> Control:
    """A job's line to the worker; without *held*, only the settings that it carries."""
    settings = context.settings
    if held is None:
        return Control(
            scratch=context.scratch,
            cancel_grace=settings.cancel_grace,
            output_limit=settings.output_limit,
            limits=settings.limits(),
        )

    def started(process: ProcessRecord) -> None:
        held.process = process
        context.held.note(held, EventType.STARTED, {"pid": process.pid}, at=began)

    def progressed() -> None:
        held.made_progress = True

    def noted(type_: EventType, payload: dict[str, Any]) -> None:
        held.made_progress = True
        context.held.note(held, type_, payload, at=monotonic())

    def remembered(left: Mapping[str, Any]) -> None:
        context.held.add_carry(held, left)

    def paid() -> bool:
        if usage_meter.is_settled:
            return True
        context.held.hurry.set()
        return False

    usage_meter = held.usage_meter = UsageMeter(
        held.claim, context.prices, CostJournal(context.scratch, (held.claim.task_id, held.claim.attempt))
    )
    live = held.output_buffer = OutputBuffer(
        settings.output_limit,
        began=monotonic() if began is None else began,
        elsewhere=not held.claim.job_kind.asks_a_model,
    )
    return Control(
        scratch=context.scratch,
        cancel_grace=settings.cancel_grace,
        output_limit=settings.output_limit,
        on_remember=remembered,
        limits=settings.limits(),
        on_output=live.feed,
        on_spent=usage_meter.set_usage,
        is_paid=paid if held.claim.budgeted else None,
        on_started=started,
        on_progress=progressed,
        on_event=noted,
    )
