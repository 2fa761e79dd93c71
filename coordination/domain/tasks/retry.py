"""The decision about a task after the end of an attempt. Pure: no clock, no database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from coordination.base.wording import excerpt
from coordination.domain.fleet.leases import MAX_LOSSES
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.tasks import NO_REASON, BlockReason


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between failed attempts: starts at ``initial``, grows by ``factor``, at most ``maximum``."""

    initial: timedelta = timedelta(seconds=2)
    factor: float = 2.0
    maximum: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Complete:
    """The task is completed."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Another attempt may follow after ``wait``."""

    wait: timedelta
    has_known_end: bool = False
    """Whether a provider named the end of its limit; such a wait does not count towards the deferral limit."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The task fails: no attempt follows."""

    why: str


@dataclass(frozen=True, slots=True)
class AskPerson:
    """A person decides, because the outcome is unknown and the job must not be repeated, or a limit is reached."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The job stopped because it needs something; it starts again then, and no failure is counted."""

    reasons: BlockReason
    why: str


@dataclass(frozen=True, slots=True)
class StayCanceled:
    """The task was canceled already; only the attempt is closed."""


Decision = Complete | RetryAfter | GiveUp | AskPerson | Wait | StayCanceled


def decide(  # noqa: C901, PLR0911 - one flat table of outcomes
    outcome: Outcome,
    *,
    failures: int,
    losses: int,
    deferrals: int,
    max_attempts: int,
    repeatable: bool,
    backoff: Backoff,
    retryable: bool = True,
    job_started: bool = True,
    killed: bool = False,
) -> Decision:
    """Return what follows *outcome*. The three counts include this attempt (*losses*: see ``count_losses``).

    *killed*: the job was ended by a signal. A limit (see ``tasks.describe_limit``) may still block a retry.
    """
    match outcome:
        case Outcome.COMPLETED:
            return Complete()
        case Outcome.CANCELED:
            return StayCanceled()
        case Outcome.HANDED_BACK if job_started and not repeatable:
            return AskPerson("a shutdown interrupted it, and the job must not be repeated")
        case Outcome.HANDED_BACK:
            return RetryAfter(timedelta(0))
        case Outcome.DEFERRED:
            return RetryAfter(backoff_delay(deferrals, backoff))
        case Outcome.LOST:
            if not repeatable:
                return AskPerson("its worker was lost and the job must not be repeated")
            if losses > MAX_LOSSES:
                return GiveUp(f"its worker died {MAX_LOSSES} times while it ran alone in a process of its own")
            return RetryAfter(timedelta(0))
        case Outcome.FAILED | Outcome.TIMED_OUT:
            if not retryable:
                return GiveUp("no retry can fix this")
            if failures >= max_attempts:
                return GiveUp("attempts used up" if max_attempts > 1 else "it has one attempt")
            if not repeatable and job_started and (killed or outcome is Outcome.TIMED_OUT):
                return AskPerson("it was interrupted, and the job must not be repeated")
            return RetryAfter(backoff_delay(failures, backoff))


def count_losses(losses: int, *, suspect: bool, alone: bool) -> int:
    """Return the loss count of a task after a lost attempt.

    0: its job is not suspected. 1: its job may have killed the worker, so that it next runs alone. More: it ran alone
    when its process died, one time less than the count. *suspect*: the job had started on a worker that died. *alone*:
    it ran in its own process, and only that died.
    """
    return losses + 1 if alone else max(losses, int(suspect))


def find_wait(end: AttemptEnd) -> Wait | None:
    """Return what the task waits for before its next attempt; None: nothing."""
    if not end.waits:
        return None
    reasons, why = NO_REASON, []
    if end.budget_shortage is not None:
        reasons |= BlockReason.BUDGET
        why.append(end.budget_shortage)
    if end.forbidden_work is not None:
        reasons |= BlockReason.MODEL
        why.append(end.error or "its project does not allow its model")
    if end.question is not None:
        reasons |= BlockReason.QUESTION
        why.append(f"it asks: {excerpt(end.question)}")
    first = [str(task.task.get("key")) for task in end.discovered if task.blocks_finder]
    if first:
        reasons |= BlockReason.DEPENDENCIES
        why.append(f"it needs {', '.join(first)} first")
    return Wait(reasons, "; ".join(why))


def retry_not_before(moment: datetime, wait: timedelta, *, now: datetime, backoff: Backoff, limit: bool) -> RetryAfter:
    """Return a retry after *wait* and not before *moment*, at most after the back-off's maximum if the plan sets one.

    *limit*: a provider limit ends at *moment*.
    """
    needed = max(moment - now, wait)
    longest = needed if backoff.maximum == Backoff().maximum else max(backoff.maximum, wait)
    return RetryAfter(min(needed, longest), has_known_end=limit and needed <= longest)


def backoff_delay(count: int, backoff: Backoff) -> timedelta:
    """Return the delay after the *count*-th failure (from 1), without jitter."""
    try:
        seconds = backoff.initial.total_seconds() * backoff.factor ** (count - 1)
    except OverflowError:
        return backoff.maximum
    return timedelta(seconds=min(seconds, backoff.maximum.total_seconds()))
