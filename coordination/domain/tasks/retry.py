"""What follows the end of an attempt: a value, decided without a clock or a database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from coordination.base.wording import excerpt
from coordination.domain.fleet.leases import MAX_LOSSES
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.tasks import NO_REASON, BlockReason


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between failed attempts: initial, then times factor, never above maximum."""

    initial: timedelta = timedelta(seconds=2)
    factor: float = 2.0
    maximum: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Complete:
    """The task is done."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Another attempt may follow, no sooner than after this wait."""

    wait: timedelta
    known: bool = False
    """It ends when a limit is lifted, and somebody named the moment: that is no job that asks for later for ever."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No attempt follows."""

    why: str


@dataclass(frozen=True, slots=True)
class AskPerson:
    """The outcome is unknown and the job must not be repeated: a person decides."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The job stopped of its own accord, for something it must have first; it is started again then, uncharged."""

    reasons: BlockReason
    why: str


@dataclass(frozen=True, slots=True)
class StayCanceled:
    """The task was canceled before; only the attempt is closed."""


Decision = Complete | RetryAfter | GiveUp | AskPerson | Wait | StayCanceled


def decide(  # noqa: C901, PLR0911 - one flat table of outcomes reads better than its pieces
    outcome: Outcome,
    *,
    failures: int,
    losses: int,
    deferrals: int,
    max_attempts: int,
    repeatable: bool,
    backoff: Backoff,
    retryable: bool = True,
    began: bool = True,
    killed: bool = False,
) -> Decision:
    """What follows *outcome*; the three counts already include this attempt (*losses*: see ``losses_after``).

    Another attempt may still have to wait for a person: see ``domain.task_limits``.
    """
    match outcome:
        case Outcome.COMPLETED:
            return Complete()
        case Outcome.CANCELED:
            return StayCanceled()
        case Outcome.HANDED_BACK if began and not repeatable:
            return AskPerson("it was ended in the middle by a shutdown, and the job must not be repeated")
        case Outcome.HANDED_BACK:
            return RetryAfter(timedelta(0))
        case Outcome.DEFERRED:
            return RetryAfter(wait_before(deferrals, backoff))
        case Outcome.LOST:
            if not repeatable:
                return AskPerson("its worker was lost and the job must not be repeated")
            if losses > MAX_LOSSES:
                return GiveUp(f"its worker died {MAX_LOSSES} times while it ran alone in a process of its own")
            return RetryAfter(timedelta(0))
        case Outcome.FAILED | Outcome.TIMED_OUT:
            if not retryable:
                return GiveUp("no retry can mend this")
            if failures >= max_attempts:
                return GiveUp("attempts used up" if max_attempts > 1 else "it has one attempt")
            if not repeatable and began and (killed or outcome is Outcome.TIMED_OUT):
                return AskPerson("it was ended in the middle, and the job must not be repeated")
            return RetryAfter(wait_before(failures, backoff))


def losses_after(losses: int, *, suspect: bool, alone: bool) -> int:
    """The losses of a task, one of whose attempts was lost. 0: its job is above suspicion; 1: it may have ended its
    worker, so that it runs alone next; more: it was the only one there so many times, less one, when a worker died.

    *suspect*: the job had started on a worker that died. *alone*: it ran in a process of its own, and only that died.
    """
    return losses + 1 if alone else max(losses, int(suspect))


def wait_of(end: AttemptEnd) -> Wait | None:
    """Return what the job that ended so waits for before it is started again, or None."""
    if not end.waits:
        return None
    reasons, why = NO_REASON, []
    if end.short is not None:
        reasons |= BlockReason.BUDGET
        why.append(end.short)
    if end.forbidden is not None:
        reasons |= BlockReason.MODEL
        why.append(end.error or "its project does not allow its model")
    if end.question is not None:
        reasons |= BlockReason.QUESTION
        why.append(f"it asks: {excerpt(end.question)}")
    first = [str(task.task.get("key")) for task in end.discovered if task.first]
    if first:
        reasons |= BlockReason.DEPENDENCIES
        why.append(f"it needs {', '.join(first)} first")
    return Wait(reasons, "; ".join(why))


def wait_until(moment: datetime, wait: timedelta, *, now: datetime, backoff: Backoff, limit: bool) -> RetryAfter:
    """*wait*, and at least until *moment*; no longer than the back-off's maximum where a plan says one of its own.

    *limit*: a limit is lifted then.
    """
    until = max(moment - now, wait)
    most = until if backoff.maximum == Backoff().maximum else max(backoff.maximum, wait)
    return RetryAfter(min(until, most), known=limit and until <= most)


def wait_before(count: int, backoff: Backoff) -> timedelta:
    """The wait after the *count*-th failure (1-based), without jitter."""
    try:
        seconds = backoff.initial.total_seconds() * backoff.factor ** (count - 1)
    except OverflowError:
        return backoff.maximum
    return timedelta(seconds=min(seconds, backoff.maximum.total_seconds()))
