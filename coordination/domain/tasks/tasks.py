"""Tasks and runs: their states, the moves between them, reasons to wait, and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntFlag, StrEnum
from typing import Any

from coordination.base.durations import show_duration
from coordination.base.errors import IllegalMove, Refused
from coordination.base.wording import excerpt, plural
from coordination.domain.fleet.leases import MAX_DEFERRALS

DEFAULT_MAX_STARTS = 20
"""The default limit of starts of an agent or a chat: each start costs money, whatever its outcome."""

HIGHEST_MAX_STARTS = 100_000

MAX_CONSECUTIVE_LOSSES = 20
"""The limit of lost attempts in a row, for every kind of job."""

DEFERRAL_LIMIT = timedelta(hours=24)
"""How long a job may defer itself in a row, unless the settings say otherwise."""


class TaskState(StrEnum):
    """The states of a task."""

    BLOCKED = "blocked"  # waits for something; always has reasons
    QUEUED = "queued"  # ready: a worker may claim it
    RUNNING = "running"  # one attempt has the lease
    COMPLETED = "completed"  # succeeded
    FAILED = "failed"  # attempts used up, or an error that no retry can fix
    CANCELED = "canceled"  # by a person, a failed dependency, or another variant that won


class TaskMove(StrEnum):
    """The moves of a task from state to state."""

    UNBLOCK = "unblock"  # the last reason was removed
    CLAIM = "claim"  # by a worker: increments attempt, sets the lease
    HOLD_BACK = "hold back"  # a hold applied at the claim
    COMPLETE = "complete"  # the attempt succeeded
    RETRY_LATER = "retry"  # the attempt did not succeed; another may follow
    WAIT = "wait"  # the attempt needs something, or its outcome is unknown
    FAIL = "fail"  # no attempt follows
    CANCEL = "cancel"  # from any open state
    REOPEN = "be retried"  # a person retries an ended task
    BLOCK_AGAIN = "be retried behind its dependencies"  # the same, while dependencies are open


class BlockReason(IntFlag):
    """Reasons why a task is blocked. Stored as a bit mask, so that SQL can remove single ones."""

    DEPENDENCIES = 1  # an upstream task has not completed
    APPROVAL = 2  # set aside for a feature that does not exist yet
    BUDGET = 4  # too little money is left in a budget
    POLICY = 8  # a rule in its project's settings
    PAUSED = 16  # its project or agent is paused
    RESERVATION = 32  # set aside for a feature that does not exist yet
    NOT_BEFORE = 64  # its start time is in the future
    QUESTION = 128  # its agent's question is not answered
    OUTCOME_UNKNOWN = 256  # a job that must not be repeated was interrupted
    LIMIT = 512  # it reached a limit of starts, losses or deferrals
    MODEL = 1024  # its project does not allow its model

    def names(self) -> list[str]:
        """Return the names of the reasons, e.g. ``["dependencies", "not_before"]``."""
        return [(reason.name or "").lower() for reason in BlockReason if reason in self]


NO_REASON = BlockReason(0)

LIFTED_BY_RETRY = BlockReason.OUTCOME_UNKNOWN | BlockReason.LIMIT
"""The reasons that a person's retry removes."""

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
"""The one table of transitions. SQL guards, the diagram in docs/concepts.md and the tests read it."""

OPEN: frozenset[TaskState] = frozenset({S.BLOCKED, S.QUEUED, S.RUNNING})
TERMINAL: frozenset[TaskState] = frozenset({S.COMPLETED, S.FAILED, S.CANCELED})

FORCIBLE_STATES: tuple[TaskState, ...] = (S.QUEUED, S.COMPLETED, S.FAILED, S.CANCELED)
"""The states that an operator may force a task into, from any other state."""


def parse_state(name: str) -> TaskState:
    """Return the state with that name. Raises Refused with the valid names."""
    try:
        return TaskState(name)
    except ValueError:
        raise Refused(
            f"There is no state {excerpt(name)}", hint=f"One of {', '.join(TaskState)}", field="state"
        ) from None


def check_forced(state: TaskState, target: TaskState) -> TaskState:
    """Return *target* if an operator may force it on a task in *state*. Raises Refused or IllegalMove.

    Queued to queued is allowed: it ends the wait for a start time or a back-off.
    """
    if target not in FORCIBLE_STATES:
        allowed = ", ".join(FORCIBLE_STATES[:-1])
        message = f"A task cannot be forced to {target}: only a claim starts a job, and only a hold blocks a task"
        raise Refused(message, hint=f"Force it to {allowed} or {FORCIBLE_STATES[-1]}")
    if state is target and state is not S.QUEUED:
        raise IllegalMove(f"be forced to {target}: it is in that state already", state)
    return target


class OnDependencyFailure(StrEnum):
    """What happens to a task when one of its dependencies ends without success."""

    CANCEL = "cancel"  # it is canceled too, and so are its dependants
    BLOCK = "block"  # it stays blocked until a person retries the dependency
    RUN = "run"  # it runs anyway, once the dependency has ended


class CancelCause(StrEnum):
    """Who canceled a task. Retrying a dependency reopens only the tasks that it canceled."""

    PERSON = "person"
    DEPENDENCY = "dependency"


class DependencyKind(StrEnum):
    """How one task refers to another. Only the first two make the dependant wait."""

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
    """A stored task. ``attempt``, the fence, is the number of its latest attempt, 0 before the first."""

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
    carried_over: Mapping[str, Any] = field(default_factory=dict)
    authority: Mapping[str, Any] | None = None
    deferred_since: datetime | None = None
    starts: int = 0
    max_starts: int = DEFAULT_MAX_STARTS
    consecutive_losses: int = 0


def needs_own_batch(options: Mapping[str, Any]) -> bool:
    """Return whether a task with these options cannot share a batch: steps run before or after its job."""
    return bool(options) and not options.keys().isdisjoint(("checkout", "gates", "outputs", "role", "expects"))


def max_starts(task: int | None, defaults: int | None, *, max_attempts: int) -> int:
    """Return the start limit of a task: its own, else the plan's default, else enough for all of its attempts."""
    configured = defaults if task is None else task
    return max(DEFAULT_MAX_STARTS, max_attempts) if configured is None else configured


def describe_limit(
    *, starts: int, max_starts: int, deferrals: int, deferred_for: timedelta, consecutive_losses: int
) -> str:
    """Return, as half a sentence, which limit the task has reached."""
    if consecutive_losses >= MAX_CONSECUTIVE_LOSSES:
        return f"its worker was lost {consecutive_losses} times in a row"
    if starts >= max_starts:
        return f"it has started {plural(starts, 'time')}, as often as max_starts allows"
    deferral = f"has deferred itself for {show_duration(deferred_for)}, {deferrals} times in a row"
    return f"it {deferral}" + (f" (at most {MAX_DEFERRALS} times)" if deferrals >= MAX_DEFERRALS else "")


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
