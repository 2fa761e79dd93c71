"""The base class of holds, rules that keep ready tasks from starting, and the records that they exchange."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, RowMapping

from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.next_steps import NextStep, Situation, join_steps, steps
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, TaskRecord, TaskState
from coordination.services.money.budgets import Estimator
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.claims import Candidate
from coordination.store.reports.tasks.task_steps import TaskSteps

_MAX_KEYS = 3


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """The transaction that claims tasks. ``estimator`` estimates their costs.

    Without ``wait``, a hold must not wait for locks of other transactions: the caller has locked other rows already.
    """

    tx: Connection
    workspace_id: str
    estimator: Estimator
    wait: bool = True


@dataclass(frozen=True, slots=True)
class HoldReason:
    """Why a hold blocks a task. ``until``: when the tick lifts it; None: something else must happen first.

    ``subject``: the id of the object that causes it, such as a budget; None: the project.
    """

    why: str | None = None
    until: datetime | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class HoldDecision:
    """A hold's decision about candidates, all by task id. Tasks that it does not name may start.

    ``blocked``: they become blocked for the hold's reason. ``requeued``: they stay queued and are enqueued later.
    ``skipped``: they stay unchanged, because another transaction has locked what decides. ``uses``: the resources that
    an attempt uses, by their column. ``changes``: fields to change in the claim. ``events``: type and payload of the
    event to write once the task is claimed.
    """

    blocked: Mapping[str, HoldReason] = field(default_factory=dict)
    requeued: Collection[str] = ()
    skipped: Collection[str] = ()
    uses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: Mapping[str, tuple[EventType, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def not_starting(self) -> frozenset[str]:
        """The tasks that must not start."""
        return frozenset((*self.blocked, *self.requeued, *self.skipped))


class FreePlaces(Protocol):
    """The free places of a project under one hold. Dispatch uses them up before it enqueues tasks."""

    limit: int | None
    """The number of tasks that can start; None: unlimited."""
    conditions: Sequence[ColumnElement[bool]]
    """SQL conditions on the tasks that can start."""

    def take(self, row: RowMapping) -> bool:
        """Take a place for a task; return whether there was one."""
        ...


@dataclass(frozen=True, slots=True)
class ExplainedTask:
    """The task to explain, or with ``via``, a task that it waits for directly or through others."""

    about: TaskSteps
    id: str
    key: str
    reasons: BlockReason
    not_before: datetime | None
    via: tuple[str, ...]
    now: datetime
    estimator: Estimator

    @property
    def task(self) -> TaskRecord | None:
        """The record of the task to explain; None for a task that it waits for."""
        return None if self.via else self.about.task

    def steps(self, situation: Situation | None, **more: str) -> tuple[NextStep, ...]:
        """Return the commands for a person about the task."""
        return () if situation is None else self.about.of(situation, self.id, self.key, **more)


@dataclass(frozen=True, slots=True)
class HaltedRun:
    """An open run without running tasks. ``groups``: the number of its tasks by state and reasons."""

    tx: Connection
    workspace_id: str
    project_id: str
    run_id: str
    groups: Mapping[tuple[TaskState, BlockReason], int]
    estimator: Estimator

    def count(self, reason: BlockReason) -> int:
        """Return the number of tasks that are blocked for *reason*, alone or with others."""
        return sum(
            number
            for (state, reasons), number in self.groups.items()
            if state is TaskState.BLOCKED and reason & reasons != NO_REASON
        )

    def jobs(self, reason: BlockReason) -> Mapping[str, Mapping[str, Any]]:
        """Return the jobs of the first few of these tasks by key."""
        return ready.list_blocked(self.tx, self.workspace_id, self.run_id, reason, most=_MAX_KEYS)

    def keys(self, reason: BlockReason) -> tuple[str, ...]:
        """Return the keys of the first few of these tasks."""
        return tuple(self.jobs(reason))


class Hold:
    """A rule that keeps ready tasks from starting. The defaults are those of a rule that never does."""

    name: str
    """The name in explanations and JSON."""
    reason: BlockReason = NO_REASON
    """The reason that is stored with blocked tasks."""
    condition: str | None = None
    """SQL on a task (t), its project (p) and run (r): whether a claim calls ``decide``. None: never."""
    follows_settings: bool = False
    """Whether it depends on the project's settings: a change of these lifts it, and the next claim decides again."""
    setting: str | None = None
    """The key of the project setting that it reads."""
    lifts_without_person: bool = False
    """Whether it is lifted without a person."""
    tick_condition: ColumnElement[bool] | None = None
    """SQL on a supervisor: whether ``repair`` or ``lift`` has anything to do for its project."""
    blocker_text: str = ""
    """The explanation of a blocked task."""
    obstacle_text: str = ""
    """The explanation for a run that does not continue, after the task's key."""
    situation: Situation | None = None
    """The situation whose commands are shown."""

    def check(self, value: Any) -> None:
        """Raise Refused for an invalid value of the setting."""

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> HoldDecision:
        """Decide which of these locked tasks, best first, must not start now. ``condition`` is true for each."""
        raise NotImplementedError

    def record(self, request: ClaimRequest, claims: Sequence[Claim]) -> None:
        """Store the resources that the claims use."""

    def find_free_places(self, tx: Connection, workspace_id: str, project_id: str) -> FreePlaces | None:
        """Return the free places of the project; None: unknown before a claim."""
        return None

    def repair(self, tx: Connection, workspace_id: str, project_id: str) -> list[str]:
        """Correct counters, in a separate transaction; return the names of the wrong ones."""
        return []

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Remove the reason from tasks of the project that may start now; return them with their new states."""
        return []

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield why this hold blocks the task, with the commands for a person."""
        if self.reason & target.reasons != NO_REASON:
            yield TaskBlocker(self.name, self.blocker_text, via=target.via, steps=target.steps(self.situation))

    def find_project_obstacles(self, run: HaltedRun) -> Iterator[Obstacle]:
        """Yield what blocks all tasks of the run's project."""
        return iter(())

    def find_run_obstacles(self, run: HaltedRun) -> list[Obstacle] | None:
        """Return what blocks tasks of the run until something else happens; None: one of them will continue."""
        if self.lifts_without_person or not (number := run.count(self.reason)):
            return []
        keys = run.keys(self.reason)
        lines = [
            f"{key}{self.obstacle_text}; "
            + (f"why: coord explain {key}" if self.situation is None else join_steps(steps(self.situation, task=key)))
            for key in keys
        ]
        if number > len(keys):
            lines.append(f"and {number - len(keys)} more")
        return [Obstacle(self.name, number, keys, "\n".join(lines), lasts=True)]


def format_moment(moment: datetime) -> str:
    """Return a moment in the format of explanations."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
