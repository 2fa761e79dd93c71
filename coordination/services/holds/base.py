"""What a hold is: a rule that keeps ready tasks from starting, asked by the claim, the tick and whoever explains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, RowMapping

from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.next_steps import NextStep, Situation, sentence, steps
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, TaskRecord, TaskState
from coordination.services.money.budgets import Estimator
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.claims import Candidate
from coordination.store.reports.tasks.task_steps import TaskSteps

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Who asks whether locked tasks may start. ``estimator``: what they are expected to cost.

    Without ``wait`` nothing may be locked that another transaction may hold: the caller has locked too much already.
    """

    tx: Connection
    workspace_id: str
    estimator: Estimator
    wait: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """Why a task does not start. ``until``: when the tick lets it go on; None: something else must happen first.

    ``subject``: the id of what holds it, such as a budget; None: its project.
    """

    why: str | None = None
    until: datetime | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a hold says of some tasks; of those that it does not name it says nothing.

    ``held``: they are blocked for the hold's reason. ``requeued``: they stay queued, and are enqueued again later.
    ``skipped``: they are left as they are, because what decides is locked by somebody else. ``uses``: what an attempt
    uses up, by the column that keeps it. ``changes``: fields of the claim that are different because of that.
    ``events``: type and payload of what is written about a task once it is claimed.
    """

    held: Mapping[str, Held] = field(default_factory=dict)
    requeued: Collection[str] = ()
    skipped: Collection[str] = ()
    uses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: Mapping[str, tuple[EventType, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def stopped(self) -> frozenset[str]:
        """The tasks that do not start."""
        return frozenset((*self.held, *self.requeued, *self.skipped))


class Openings(Protocol):
    """How many of a project's tasks could start now, and which: asked before they are enqueued."""

    most: int | None
    """So many in all; None: any number."""
    where: Sequence[ColumnElement[bool]]
    """Conditions on the tasks that are worth looking at."""

    def take(self, row: RowMapping) -> bool:
        """Use up a place for a task; whether there was one."""
        ...


@dataclass(frozen=True, slots=True)
class HeldTask:
    """A task that is explained, or one that it waits for, directly or *via* others."""

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
        """The task that is explained; None for one that it waits for."""
        return None if self.via else self.about.task

    def steps(self, situation: Situation | None, **more: str) -> tuple[NextStep, ...]:
        """What a person can enter about the task."""
        return () if situation is None else self.about.of(situation, self.id, self.key, **more)


@dataclass(frozen=True, slots=True)
class HeldRun:
    """An open run of which nothing runs. ``groups``: how many of its tasks are in which state for which reasons."""

    tx: Connection
    workspace_id: str
    project_id: str
    run_id: str
    groups: Mapping[tuple[TaskState, BlockReason], int]
    estimator: Estimator

    def count(self, reason: BlockReason) -> int:
        """How many of its tasks are blocked for a reason, whatever else holds them."""
        return sum(
            number
            for (state, reasons), number in self.groups.items()
            if state is TaskState.BLOCKED and reason & reasons != NO_REASON
        )

    def keys(self, reason: BlockReason) -> tuple[str, ...]:
        """The keys of the first few of these."""
        return tuple(ready.keys_held(self.tx, self.workspace_id, self.run_id, reason, most=_MOST_NAMED))


class Hold:
    """A rule that keeps ready tasks from starting. A subclass says what is different from a rule that never does."""

    name: str
    """What explanations and JSON call it."""
    reason: BlockReason = NO_REASON
    """The reason that is stored with the tasks that it holds."""
    condition: str | None = None
    """SQL on a task (t), its project (p) and run (r): whether ``decide`` has to be asked. None: never, at a claim."""
    uses_up: bool = False
    """Whether what it decides uses something up, so that it is asked only for as many tasks as can be claimed."""
    follows_settings: bool = False
    """Whether it depends on what the project says: what it holds goes on, and is asked again, when that changes."""
    setting: str | None = None
    """The key among a project's settings that it reads."""
    passes: bool = False
    """Whether what it holds goes on without a person."""
    duty: ColumnElement[bool] | None = None
    """SQL on a supervisor: whether ``heal`` or ``lift`` has anything to do for its project."""
    words: str = ""
    """What holds the task, for an explanation."""
    remark: str = ""
    """The same of a task of a run that stands still, behind the task's name."""
    situation: Situation | None = None
    """What a person can do about it."""

    def check(self, value: Any) -> None:
        """Refuse a value of the setting that cannot be used."""

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> Decision:
        """Decide which of these locked tasks, best first, may not start now. *condition* applies to each."""
        raise NotImplementedError

    def record(self, request: ClaimRequest, claims: Sequence[Claim]) -> None:
        """Write what the claims of tasks that ``decide`` was asked about bring with them."""

    def openings(self, tx: Connection, workspace_id: str, project_id: str) -> Openings | None:
        """Return how many tasks of the project can start; None when the hold does not know that before a claim."""
        return None

    def heal(self, tx: Connection, workspace_id: str, project_id: str) -> list[str]:
        """Correct what is counted, in a transaction of its own; the names of what was wrong."""
        return []

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Take the reason away from tasks of the project that may start now; these tasks, with their new states."""
        return []

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say what holds a task, and what a person can enter."""
        if self.reason & held.reasons != NO_REASON:
            yield TaskBlocker(self.name, self.words, via=held.via, steps=held.steps(self.situation))

    def of_project(self, run: HeldRun) -> Iterator[Obstacle]:
        """Say what holds everything of the run's project."""
        return iter(())

    def of_run(self, run: HeldRun) -> list[Obstacle] | None:
        """Say what holds tasks of the run until something else happens; None when one of them goes on by itself."""
        if self.passes or not (number := run.count(self.reason)):
            return []
        keys = run.keys(self.reason)
        lines = [
            f"{key}{self.remark}; "
            + (f"why: coord explain {key}" if self.situation is None else sentence(steps(self.situation, task=key)))
            for key in keys
        ]
        more = number - len(keys)
        return [
            Obstacle(
                self.name, number, keys, "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])]), lasts=True
            )
        ]


def shown(moment: datetime) -> str:
    """Return a moment as explanations write it."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
