"""Task lifecycle: which states and moves exist. Pure: no clock, no database, no logging.

``MOVES`` is the one table of transitions. SQL guards, the diagram in docs/concepts.md and the tests read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntFlag, StrEnum
from typing import Any

from coordination.base.errors import IllegalMove, Refused
from coordination.base.wording import excerpt
from coordination.domain.tasks.task_limits import DEFAULT_MAX_STARTS


class TaskState(StrEnum):
    """Where a task stands."""

    BLOCKED = "blocked"  # waits for something; always carries its reasons
    QUEUED = "queued"  # ready: nothing holds it, a worker may claim it
    RUNNING = "running"  # one attempt holds its lease
    COMPLETED = "completed"  # done, with its evidence
    FAILED = "failed"  # attempts used up, or an error that no retry can mend
    CANCELED = "canceled"  # a person, a failed dependency or a lost race ended it


class TaskMove(StrEnum):
    """What can happen to a task."""

    UNBLOCK = "unblock"  # the last reason is gone
    CLAIM = "claim"  # a worker takes it: attempt + 1, lease set
    HOLD_BACK = "hold back"  # a claim met a pause, a policy or a budget
    COMPLETE = "complete"  # the attempt succeeded
    RETRY_LATER = "retry"  # the attempt failed, was lost or handed back; another may follow
    WAIT = "wait"  # the attempt asks, or its outcome is unknown
    FAIL = "fail"  # no attempt may follow
    CANCEL = "cancel"  # from any open state
    REOPEN = "be retried"  # a person's retry of an ended task
    BLOCK_AGAIN = "be retried behind its dependencies"  # the same, while its dependencies are open


class BlockReason(IntFlag):
    """Why a task is blocked; several may hold at once. Stored as a bit mask so that SQL can take one away."""

    DEPENDENCIES = 1  # something it needs has not completed
    APPROVAL = 2  # a person must agree; kept free for that
    BUDGET = 4  # no money is left in a scope that applies
    POLICY = 8  # a rule among its project's settings
    PAUSED = 16  # its project or agent is paused
    RESERVATION = 32  # a file it needs is reserved by somebody else; kept free for that
    NOT_BEFORE = 64  # its start time has not come
    QUESTION = 128  # the agent asked and waits for an answer
    OUTCOME_UNKNOWN = 256  # a job that must not be repeated lost its worker
    LIMIT = 512  # it has started, was lost or asked for later as often as it may: a person lets it go on
    MODEL = 1024  # its project does not allow the model that its job names

    def names(self) -> list[str]:
        """The reasons as words, e.g. ``["dependencies", "not_before"]``."""
        return [(reason.name or "").lower() for reason in BlockReason if reason in self]


NO_REASON = BlockReason(0)

FOR_A_PERSON = BlockReason.OUTCOME_UNKNOWN | BlockReason.LIMIT
"""What a person's retry lifts from a blocked task."""

S, M = TaskState, TaskMove

MOVES: Mapping[TaskMove, tuple[frozenset[TaskState], TaskState]] = {
    M.UNBLOCK: (frozenset({S.BLOCKED}), S.QUEUED),
    M.CLAIM: (frozenset({S.QUEUED}), S.RUNNING),
    M.HOLD_BACK: (frozenset({S.QUEUED}), S.BLOCKED),
    M.COMPLETE: (frozenset({S.RUNNING}), S.COMPLETED),
    M.RETRY_LATER: (frozenset({S.RUNNING}), S.QUEUED),
    M.WAIT: (frozenset({S.RUNNING}), S.BLOCKED),
    M.FAIL: (frozenset({S.RUNNING}), S.FAILED),
    M.CANCEL: (frozenset({S.BLOCKED, S.QUEUED, S.RUNNING}), S.CANCELED),
    M.REOPEN: (frozenset({S.FAILED, S.CANCELED}), S.QUEUED),
    M.BLOCK_AGAIN: (frozenset({S.FAILED, S.CANCELED}), S.BLOCKED),
}

OPEN: frozenset[TaskState] = frozenset({S.BLOCKED, S.QUEUED, S.RUNNING})
TERMINAL: frozenset[TaskState] = frozenset({S.COMPLETED, S.FAILED, S.CANCELED})


def after(move: TaskMove, state: TaskState) -> TaskState:
    """The state *move* leads to from *state*, or IllegalMove."""
    sources, target = MOVES[move]
    if state not in sources:
        raise IllegalMove(move, state)
    return target


FORCIBLE: tuple[TaskState, ...] = (S.QUEUED, S.COMPLETED, S.FAILED, S.CANCELED)
"""The states that an operator may force a task into, from any other: the way out that ``MOVES`` does not have."""


def state_named(name: str) -> TaskState:
    """The state of that name; Refused with the names that there are."""
    try:
        return TaskState(name)
    except ValueError:
        raise Refused(
            f"There is no state {excerpt(name)}", hint=f"One of {', '.join(TaskState)}", field="state"
        ) from None


def forced(state: TaskState, target: TaskState) -> TaskState:
    """*target*, when an operator may force a task that is *state* into it; else Refused or IllegalMove.

    Queued to queued is no nonsense: it ends the wait for a start time or a back-off.
    """
    if target not in FORCIBLE:
        allowed = ", ".join(FORCIBLE[:-1])
        raise Refused(
            f"A task cannot be forced to {target}: only a claim starts a job, and only what holds a task blocks it",
            hint=f"Force it to {allowed} or {FORCIBLE[-1]}",
        )
    if state is target and state is not S.QUEUED:
        raise IllegalMove(f"be forced to {target}: it is that already", state)
    return target


class OnDependencyFailure(StrEnum):
    """What becomes of a task when something it needs ends without success."""

    CANCEL = "cancel"  # it is canceled too, and so are its own dependants
    BLOCK = "block"  # it stays blocked until a person retries the dependency
    RUN = "run"  # it runs anyway, once the dependency has ended


class CancelCause(StrEnum):
    """Who canceled a task; only what a dependency canceled comes back when the dependency is retried."""

    PERSON = "person"
    DEPENDENCY = "dependency"


class DependencyKind(StrEnum):
    """How one task refers to another. Only the first two hold the dependant back."""

    BLOCKS = "blocks"
    PARENT_CHILD = "parent-child"
    DISCOVERED_FROM = "discovered-from"
    RELATED = "related"

    @property
    def holds_back(self) -> bool:
        """Whether the dependant waits for the other to complete."""
        return self in (DependencyKind.BLOCKS, DependencyKind.PARENT_CHILD)


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task as stored. ``attempt`` is the number of its latest attempt, 0 before the first: the fencing token."""

    id: str
    workspace_id: str
    project_id: str
    run_id: str
    key: str
    title: str
    state: TaskState
    reasons: BlockReason
    work: dict[str, Any]
    input: dict[str, Any]
    agent: str | None
    creator: str
    parent_id: str | None
    priority: int
    pending: int
    attempt: int
    failures: int
    losses: int
    deferrals: int
    max_attempts: int
    timeout: timedelta | None
    stall_timeout: timedelta | None
    repeatable: bool
    on_dependency_failure: OnDependencyFailure
    concurrency_key: str | None
    not_before: datetime | None
    due_at: datetime | None
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    workdir: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    authority: Mapping[str, Any] | None = None
    deferred_since: datetime | None = None
    starts: int = 0
    max_starts: int = DEFAULT_MAX_STARTS
    consecutive_losses: int = 0
