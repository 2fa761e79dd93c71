"""The records and types of the append-only event log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, Self

from coordination.domain.tasks.attempts import AttemptIdentity


class EventType(StrEnum):
    """The types of events."""

    CREATED = "created"
    ASSIGNED = "assigned"
    CLAIMED = "claimed"  # by the worker that is the actor
    STARTED = "started"  # the job itself was started
    PROGRESS = "progress"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    COMPLETED = "completed"
    FAILED = "failed"
    ESCALATED = "escalated"
    HEARTBEAT_LOST = "heartbeat_lost"  # the lease expired, or the worker's parent reported its death
    RETRIED = "retried"  # queued again, after a failed attempt or by a person
    HANDED_BACK = "handed_back"  # the worker shut down
    CANCELED = "canceled"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    ANSWERED = "answered"  # payload: question and answer
    REPRIORITIZED = "reprioritized"  # by a person; payload: from, to
    FORCED = "forced"  # a person set the state; payload: from, to, reason, fenced attempts
    BUDGET_WARNED = "budget_warned"  # spending reached the warning share of a cap
    BUDGET_REACHED = "budget_reached"  # a cap is used up
    DOWNGRADED = "downgraded"  # a budget selected a cheaper model
    RENAMED = "renamed"  # of an agent; payload: from, to
    RUN_SUBMITTED = "run_submitted"
    RUN_FINISHED = "run_finished"
    RUN_REOPENED = "run_reopened"


class SubjectKind(StrEnum):
    """The kinds of objects that events are about."""

    TASK = "task"
    RUN = "run"
    PROJECT = "project"
    BUDGET = "budget"
    AGENT = "agent"
    STOP = "stop"
    ACCOUNT = "account"
    WORKSPACE = "workspace"


class TaskSubject(Protocol):
    """The fields that identify a task in its events."""

    @property
    def id(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to store. ``age``: how long before its storage it happened, on the database's clock.

    ``subject``: kind and id of the object, unless that is a task or a run.
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
        attempt: AttemptIdentity,
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
    """A stored event. ``cursor`` orders events by visibility; pass it back to read the events after this one."""

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
