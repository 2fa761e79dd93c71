"""A run is one submission of a plan; its state follows from its tasks and is never stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from coordination.domain.tasks.tasks import TaskState


class RunState(StrEnum):
    """Derived from the states of the run's tasks."""

    OPEN = "open"  # at least one task can still move by itself
    STUCK = "stuck"  # nothing runs or is queued, and what is blocked waits for something outside the run
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether no task is open."""
        return self in (RunState.COMPLETED, RunState.FAILED, RunState.CANCELED)


def state_of(counts: Mapping[TaskState, int], *, waiting_on_failure: int = 0) -> RunState:
    """The run's state from the number of its tasks in each state.

    ``waiting_on_failure``: how many blocked tasks wait for a dependency that has ended without success; when
    only such tasks are open, nothing inside the run can move any more and a person must decide.
    """
    open_ = counts.get(TaskState.QUEUED, 0) + counts.get(TaskState.RUNNING, 0)
    blocked = counts.get(TaskState.BLOCKED, 0)
    if open_ or blocked > waiting_on_failure:
        return RunState.OPEN
    if blocked:
        return RunState.STUCK
    if counts.get(TaskState.FAILED, 0):
        return RunState.FAILED
    if counts.get(TaskState.CANCELED, 0):
        return RunState.CANCELED
    return RunState.COMPLETED


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One submission as stored, with what follows from its tasks."""

    id: str
    workspace_id: str
    project_id: str
    project: str
    session_id: str
    name: str
    state: RunState
    counts: dict[TaskState, int]
    cost_usd: Decimal
    unpriced_calls: int
    created_at: datetime
    finished_at: datetime | None
    predicted: dict[str, Any] | None = None  # what it was expected to take and cost (see domain/predictions)
    branch: str | None = None  # of the project's repository, where its tasks' changes are merged

    @property
    def total(self) -> int:
        """How many tasks the run has."""
        return sum(self.counts.values())
