"""The append-only story of a task: which events exist."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


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
