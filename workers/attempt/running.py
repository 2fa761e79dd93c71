"""Types of the steps around a runner and of the attempt that passes through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from coordination.domain.jobs.checkouts import CHECKOUT_OPTION, CheckoutKind, parse_checkout
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.runners.base import Control
from workers.workspaces.change import Change


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt on its way to its runner. A step passes a changed copy on to the steps inside it.

    ``claim``: for the runner, as changed by the steps so far. ``rendered``: before any step. ``stored``: before its
    templates were rendered. ``is_ours``: whether the lease is valid, as far as this process knows. ``change``: the
    change in the attempt's own worktree.
    """

    claim: Claim
    rendered: Claim
    stored: Claim
    control: Control
    is_ours: Callable[[], bool]
    change: Change | None = None


Proceed = Callable[[RunningAttempt], AttemptEnd]
"""Runs the inner steps and the job, and returns the attempt's end so far."""


class AttemptStep(Protocol):
    """A step around a runner; one instance serves all threads of a worker process."""

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        """Return the end of *attempt*: the result of ``proceed(attempt)``, changed or not, or an end without a run."""
        ...


@runtime_checkable
class CommitListener(Protocol):
    """A step that is called when an attempt's end was written to the store, also if it does not apply to it."""

    def committed(self, claim: Claim, end: AttemptEnd, *, refused: bool) -> None:
        """Handle *end*, which was written, or *refused* because the task has changed."""


@runtime_checkable
class ClosableStep(Protocol):
    """A step with resources for the whole process."""

    def close(self) -> None:
        """Release the resources. No attempt may run any more."""


def is_in_worktree(claim: Claim) -> bool:
    """Return whether the job works in its own git worktree. Raises Refused."""
    checkout = claim.options.get(CHECKOUT_OPTION)
    return checkout is not None and parse_checkout(checkout).kind is CheckoutKind.GIT_WORKTREE


def is_unfinished(result: AttemptEnd) -> bool:
    """Return whether the job did not complete."""
    return result.outcome is not Outcome.COMPLETED


def with_log_line(result: AttemptEnd, line: str) -> AttemptEnd:
    """Return *result* with *line* at the end of its log."""
    log = (result.log or "").rstrip()
    return replace(result, log=f"{log}\n{line}" if log else line)
