"""Runs: submissions of plans. The state of a run is derived from its tasks and never stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from coordination.domain.tasks.tasks import TaskState


class RunState(StrEnum):
    """The states of a run, derived from its tasks."""

    OPEN = "open"  # at least one task can proceed without a person
    STUCK = "stuck"  # every open task waits for one that ended without success
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether no task is open."""
        return self in (RunState.COMPLETED, RunState.FAILED, RunState.CANCELED)


def derive_state(counts: Mapping[TaskState, int], *, waiting_on_failure: int = 0) -> RunState:
    """Return the run's state for the number of its tasks in each state.

    *waiting_on_failure*: the number of blocked tasks that wait for one that ended without success. When no other tasks
    are open, the run is stuck and a person must decide.
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
    """A stored run with its derived state, counts and costs."""

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
    predicted: dict[str, Any] | None = None  # the estimated duration and cost
    branch: str | None = None  # the git branch into which its tasks' changes are merged

    @property
    def total(self) -> int:
        """The number of tasks of the run."""
        return sum(self.counts.values())
