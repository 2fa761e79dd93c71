"""A batch's line to the worker: what a runner of batches is given, and how orders reach the job that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from coordination.clock import monotonic, utc_now
from coordination.domain.attempts import Claim, Result
from coordination.domain.costs import CostRecord
from coordination.domain.events import EventType
from coordination.domain.retry import Complete
from coordination.flows.finish_attempts import decided
from coordination.store.queries.completions import Ran
from workers.bundles import Bundle
from workers.context import Context
from workers.held import Held
from workers.live import Live
from workers.purse import Purse
from workers.runners.base import Control, ProcessRecord
from workers.waking import wake


class BatchBoard:
    """The board of some claims of a bundle, in the order in which they run."""

    def __init__(
        self, context: Context, bundle: Bundle, batch: Sequence[Held], *, promote: Callable[[Bundle, Held], None]
    ) -> None:
        self._context = context
        self._promote = promote
        self._bundle = bundle
        self._batch = batch
        self.interrupted = wake()
        context.held.watch(batch, self.interrupted)

    def control(self, index: int, *, began: float) -> Control:
        """The job is not that short: from here on it has its own line, and what waits behind it may be relieved."""
        held = self._batch[index]
        self._bundle.singled_out(begun=index + 1, began=began)
        control = make_control(self._context, held, began=began)
        self._context.held.attach(held, control)
        if held.ahead is not None:
            self._context.held.add_ahead(held)
            self._promote(self._bundle, held)
        return control

    def ended(self, index: int, result: Result, took: timedelta, size: int = 0) -> None:
        """Keep the result for the next write."""
        keep(self._context, self._bundle, self._batch[index], result, took, size=size)


def keep(context: Context, bundle: Bundle, held: Held, result: Result, took: timedelta, *, size: int = 0) -> None:
    """One job is over: learn from it, and keep its end for the next write; *size*: of its result, in bytes, about."""
    claim = held.claim
    if result.began:
        context.kinds.learn(bundle.place.project_id, claim.kind, took)
    ahead = None
    if held.ahead is not None:
        ahead = Ran(took.total_seconds(), held.ahead, context.worker_id)
    costs: tuple[CostRecord, ...] | None = None
    written: tuple[CostRecord, ...] = ()
    if held.purse is not None:
        costs, written = held.purse.rest(result.usage)
        result = held.purse.judged(result, [*written, *costs])
    elif result.usage:
        result = context.prices.priced(claim, result)
    finish = decided(claim, result, now=utc_now(), ahead=ahead, took=took, costs=costs, written=written)
    bundle.add(finish, context.held.ending(held), size)
    if bundle.piece is not None and isinstance(finish.decision, Complete):
        follow(bundle, claim, result)


def follow(bundle: Bundle, claim: Claim, result: Result) -> None:
    """What needed only this, and what completed before it, runs next."""
    piece = bundle.piece
    assert piece is not None  # noqa: S101 - the caller looked
    ready = piece.completed(claim, result.output)
    if ready:
        bundle.append([Held(one, bundle.sent, ahead=piece.pending(one)) for one in ready])


def make_control(context: Context, held: Held | None, *, began: float | None = None) -> Control:
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
        held.moved = True

    def noted(type_: EventType, payload: dict[str, Any]) -> None:
        held.moved = True
        context.held.note(held, type_, payload, at=monotonic())

    def remembered(left: Mapping[str, Any]) -> None:
        context.held.remember(held, left)

    def paid() -> bool:
        if purse.settled:
            return True
        context.held.hurry.set()
        return False

    purse = held.purse = Purse(held.claim, context.prices)
    live = held.live = Live(
        settings.output_limit,
        began=monotonic() if began is None else began,
        elsewhere="prompt" not in held.claim.work,
    )
    return Control(
        scratch=context.scratch,
        cancel_grace=settings.cancel_grace,
        output_limit=settings.output_limit,
        on_remember=remembered,
        limits=settings.limits(),
        on_output=live.feed,
        on_spent=purse.spent,
        is_paid=paid if held.claim.budgeted else None,
        on_started=started,
        on_progress=progressed,
        on_event=noted,
    )
