"""What every step around a runner is given, and what a step is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.attempt.folders import AttemptFolder
from workers.runners.base import Control
from workers.workspaces.change import Change


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt on its way to its runner; a step passes a changed copy on to the steps inside it.

    ``claim``: what the runner is to execute, as the steps so far have changed it. ``rendered``: the same before any
    step. ``stored``: the same before its templates were rendered. ``is_ours``: whether the lease still holds, as far as
    this process knows. ``folder``: its private scratch folder. ``change``: what it makes in a worktree of its own.
    """

    claim: Claim
    rendered: Claim
    stored: Claim
    control: Control
    is_ours: Callable[[], bool]
    folder: AttemptFolder | None = None
    change: Change | None = None


Proceed = Callable[[RunningAttempt], AttemptEnd]
"""Runs the steps further inside, and the job; returns how the attempt ended so far."""


class AttemptStep(Protocol):
    """One concern around a runner; one instance serves all threads of a worker process."""

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        """Return the end of *attempt*: that of ``proceed(attempt)``, changed or not, or one without it."""
        ...


@runtime_checkable
class CommitListener(Protocol):
    """A step that acts when the end of an attempt was written to the store."""

    def committed(self, claim: Claim, end: AttemptEnd, *, refused: bool) -> None:
        """Act on *end*, which was written, or *refused* because the task has moved on."""


@runtime_checkable
class ClosableStep(Protocol):
    """A step that keeps something for the whole process."""

    def close(self) -> None:
        """Release it; nothing runs any more."""


def is_unfinished(result: AttemptEnd) -> bool:
    """Return whether the job is not done: it did not complete."""
    return result.outcome is not Outcome.COMPLETED


def with_log_line(result: AttemptEnd, line: str) -> AttemptEnd:
    """Return *result* with *line* at the end of its log."""
    log = (result.log or "").rstrip()
    return replace(result, log=f"{log}\n{line}" if log else line)
