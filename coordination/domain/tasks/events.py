"""The append-only story of a task: which events exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, Self

from coordination.domain.tasks.attempts import Spender


class EventType(StrEnum):
    """What can be written into a task's (or a run's) story."""

    CREATED = "created"
    ASSIGNED = "assigned"
    CLAIMED = "claimed"  # a worker holds it; attempt and worker in the payload
    STARTED = "started"  # the job itself was started
    PROGRESS = "progress"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    COMPLETED = "completed"
    FAILED = "failed"
    ESCALATED = "escalated"
    HEARTBEAT_LOST = "heartbeat_lost"  # the lease ran out, or the worker's parent reported its death
    RETRIED = "retried"  # queued again, after a failed attempt or by a person
    HANDED_BACK = "handed_back"  # the worker shut down
    CANCELED = "canceled"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    ANSWERED = "answered"  # somebody answered its agent's question; both in the payload
    REPRIORITIZED = "reprioritized"  # a person changed the priority; from and to in the payload
    FORCED = "forced"  # a person set the state; from, to and reason in the payload, with the attempt that it fenced off
    BUDGET_WARNED = "budget_warned"  # the share of a cap at which it warns is spent
    BUDGET_REACHED = "budget_reached"  # nothing is left of a cap
    DOWNGRADED = "downgraded"  # it runs with a cheaper model, because of a budget
    RENAMED = "renamed"  # an agent has another name; from and to in the payload
    RUN_SUBMITTED = "run_submitted"
    RUN_FINISHED = "run_finished"
    RUN_REOPENED = "run_reopened"


class SubjectKind(StrEnum):
    """What an event is about."""

    TASK = "task"
    RUN = "run"
    PROJECT = "project"
    BUDGET = "budget"
    AGENT = "agent"
    STOP = "stop"
    ACCOUNT = "account"
    WORKSPACE = "workspace"


class TaskSubject(Protocol):
    """A task, as far as its events name it."""

    @property
    def id(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to store. ``age``: how long ago it happened when it is stored, on the database's clock.

    ``subject``: kind and id of what it is about, where that is neither a task nor a run.
    """

    type: EventType
    project_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    attempt: int | None = None
    actor: str | None = None
    payload: Mapping[str, Any] | None = None
    age: timedelta = timedelta(0)
    subject: tuple[SubjectKind, str] | None = None

    @classmethod
    def of_task(
        cls, task: TaskSubject, type_: EventType, *, actor: str | None = None, payload: Mapping[str, Any] | None = None
    ) -> Self:
        """Return an event of a task."""
        return cls(type_, task.project_id, task.run_id, task.id, actor=actor, payload=payload)

    @classmethod
    def of_attempt(
        cls,
        attempt: Spender,
        type_: EventType,
        *,
        actor: str | None = None,
        payload: Mapping[str, Any] | None = None,
        age: timedelta = timedelta(0),
    ) -> Self:
        """Return an event of an attempt."""
        run = attempt.project_id, attempt.run_id
        return cls(type_, *run, attempt.task_id, attempt.attempt, actor, payload, age)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the story. ``cursor`` orders events as they became visible; pass it back to read on from there."""

    cursor: str
    type: EventType
    at: datetime
    run_id: str | None
    task_id: str | None
    key: str | None
    attempt: int | None
    actor: str | None
    payload: dict[str, Any]
    subject_kind: SubjectKind = SubjectKind.TASK
    subject_id: str | None = None
