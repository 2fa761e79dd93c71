"""What the worker knows of an attempt that more than a job belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordination.domain.attempts import Outcome, Result


def goes_on(result: Result) -> bool:
    """Whether the job is not done: it did not complete, asks, or waits for tasks that it found."""
    waits = result.question is not None or any(found.first for found in result.discovered)
    return waits or result.outcome is not Outcome.COMPLETED


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the worker knows of an attempt. *ours*: whether its lease still holds, as far as is known.

    *lost*: asked when all its gates have passed, why it must not count (another variant was first), or None.
    *keeps*: keeps the files of a completed result that the task has to leave in a folder.
    """

    ours: Callable[[], bool]
    lost: Callable[[], str | None] = lambda: None
    keeps: Callable[[str, Result], Result] = lambda _folder, result: result
