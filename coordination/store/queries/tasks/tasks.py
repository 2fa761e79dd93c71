"""Statements on tasks: the guarded moves of the state machine, and reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    update,
)

from coordination.domain.access.principals import PrincipalKind
from coordination.domain.fleet.leases import MAX_DEFERRALS
from coordination.domain.tasks.tasks import (
    DEFERRAL_LIMIT,
    MAX_CONSECUTIVE_LOSSES,
    MOVES,
    NO_REASON,
    OPEN,
    BlockReason,
    CancelCause,
    OnDependencyFailure,
    TaskMove,
    TaskRecord,
    TaskState,
)
from coordination.store.driver import insert_rows
from coordination.store.queries.access import principals
from coordination.store.queries.money.budgets import PAID
from coordination.store.tables.access.principals import principals as principals_table
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import Reasons, db_after, db_now

BATCH = 500

TASK_CREATOR = "task:"
"""The prefix of the creator of a discovered task."""

t = tasks.c

RESET_COUNTERS: dict[str, Any] = {
    "failures": 0,
    "losses": 0,
    "deferrals": 0,
    "deferred_since": None,
    "starts": 0,
    "consecutive_losses": 0,
}
"""The values that reset all counters of a task."""


@dataclass(frozen=True, slots=True)
class CounterChanges:
    """The changes by an ended attempt. ``started``: its job was started. ``lost``: its worker was lost.

    ``losses`` is set, not added (see ``domain.tasks.retry.count_losses``); None leaves it. ``own_end``: the job
    ended by itself without a deferral, which resets the deferrals. ``known_wait``: it waits for the known end of a
    provider limit, so that ``deferred_since`` is reset.
    """

    failures: int = 0
    losses: int | None = None
    deferrals: int = 0
    started: bool = False
    lost: bool = False
    own_end: bool = False
    known_wait: bool = False


def counter_values(counts: CounterChanges) -> dict[str, Any]:
    """Return the new values of the counters."""
    deferred: dict[str, Any] = {}
    if counts.own_end:
        deferred = {"deferrals": 0, "deferred_since": None}
    elif counts.deferrals:
        since = None if counts.known_wait else func.coalesce(t.deferred_since, db_now())
        deferred = {"deferrals": t.deferrals + counts.deferrals, "deferred_since": since}
    return {
        "failures": t.failures + counts.failures,
        "losses": t.losses if counts.losses is None else counts.losses,
        "consecutive_losses": t.consecutive_losses + 1 if counts.lost else 0,
        "starts": _starts(counts),
        **deferred,
    }


def is_limit_reached(counts: CounterChanges, deferral_limit: timedelta = DEFERRAL_LIMIT) -> ColumnElement[bool]:
    """Return the condition that the task reaches a limit with these changes.

    The statements that write the counters test it, so that every way of ending an attempt does.
    """
    limits: list[ColumnElement[bool]] = [and_(PAID, _starts(counts) >= t.max_starts)]
    if counts.lost:
        limits.append(t.consecutive_losses + 1 >= MAX_CONSECUTIVE_LOSSES)
    if counts.deferrals:
        limits.append(t.deferrals + counts.deferrals >= MAX_DEFERRALS)
        if not counts.known_wait:
            limits.append(t.deferred_since <= db_after(-deferral_limit.total_seconds()))
    return func.coalesce(or_(*limits), false())


def _starts(counts: CounterChanges) -> Any:
    return case((PAID, t.starts + 1), else_=t.starts) if counts.started else t.starts


SELECT_TASKS = select(
    tasks, principals.name_of(t.agent_id).label("agent"), principals.text_of(t.created_by).label("creator")
)
"""The statement for ``task_of``: tasks with the names of their agents and creators."""


def _fenced(move: TaskMove, workspace_id: str, task_id: str, attempt: int) -> Any:
    return update(tasks).where(
        t.workspace_id == workspace_id, t.id == task_id, t.attempt == attempt, t.state.in_(MOVES[move][0])
    )


def _carried(carried: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the column with the values for the next attempt; without *carried*, the stored ones stay."""
    return {} if carried is None else {"carried": dict(carried)}


_LIMIT_COLUMNS = (t.id, t.state, t.starts, t.max_starts, t.deferrals, t.deferred_since, t.consecutive_losses)


def queue_again(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    *,
    attempt: int,
    wait: timedelta,
    counts: CounterChanges,
    error: str | None,
    carried: Mapping[str, Any] | None = None,
    deferral_limit: timedelta = DEFERRAL_LIMIT,
) -> RowMapping | None:
    """Move running to queued with a start time after *wait*, or to blocked if a limit is reached.

    Return the new state and counters, and ``now``; None: the fence is stale.
    """
    limit_reached = is_limit_reached(counts, deferral_limit)
    statement = _fenced(TaskMove.RETRY_LATER, workspace_id, task_id, attempt).values(
        state=case((limit_reached, TaskState.BLOCKED.value), else_=TaskState.QUEUED.value),
        reasons=case((limit_reached, literal(BlockReason.LIMIT, Reasons)), else_=literal(NO_REASON, Reasons)),
        enqueued_at=None,
        not_before=case((limit_reached, None), else_=db_after(wait.total_seconds())) if wait else None,
        **counter_values(counts),
        **_carried(carried),
        error=error,
        updated_at=db_now(),
    )
    return tx.execute(statement.returning(*_LIMIT_COLUMNS, db_now().label("now"))).mappings().first()


def fail(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    *,
    attempt: int,
    counts: CounterChanges,
    error: str | None,
    carried: Mapping[str, Any] | None = None,
) -> bool:
    """Move running to failed. Return whether the fence was valid."""
    values = {**counter_values(counts), **_carried(carried), "finished_at": db_now(), "updated_at": db_now()}
    statement = _fenced(TaskMove.FAIL, workspace_id, task_id, attempt)
    statement = statement.values(state=TaskState.FAILED, error=error, **values)
    return tx.execute(statement.returning(t.id)).first() is not None


def block(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    *,
    attempt: int,
    counts: CounterChanges,
    reason: BlockReason,
    error: str | None,
    carried: Mapping[str, Any] | None = None,
) -> bool:
    """Move running to blocked for *reason*, and for a reached limit. Return whether the fence was valid."""
    both = literal(reason | BlockReason.LIMIT, Reasons)
    statement = _fenced(TaskMove.WAIT, workspace_id, task_id, attempt).values(
        state=TaskState.BLOCKED,
        reasons=case((is_limit_reached(counts), both), else_=literal(reason, Reasons)),
        **counter_values(counts),
        **_carried(carried),
        error=error,
        updated_at=db_now(),
    )
    return tx.execute(statement.returning(t.id)).first() is not None


_BY_IDS = select(t.id).where(t.workspace_id == bindparam("ws"), t.id.in_(bindparam("ids", expanding=True)))
_LOCK = _BY_IDS.order_by(t.id).with_for_update()
_LOCK_NOW = _LOCK.with_for_update(nowait=True)


def lock(tx: Connection, workspace_id: str, ids: Iterable[str], *, nowait: bool = False) -> None:
    """Lock these rows in id order. *nowait*: raise if one is locked, so that the transaction is repeated."""
    if tx.dialect.name != "sqlite":  # SQLite has one writer
        ordered, statement = sorted(set(ids)), _LOCK_NOW if nowait else _LOCK
        for start in range(0, len(ordered), BATCH):
            tx.execute(statement, {"ws": workspace_id, "ids": ordered[start : start + BATCH]}).all()


def cancel(
    tx: Connection, workspace_id: str, ids: Sequence[str], *, cause: CancelCause, error: str
) -> list[RowMapping]:
    """Cancel the open tasks of *ids*. Return their id, run_id, attempt and key."""
    canceled: list[RowMapping] = []
    for start in range(0, len(ids), BATCH):
        is_open = t.id.in_(ids[start : start + BATCH]), t.state.in_(MOVES[TaskMove.CANCEL][0])
        statement = (
            update(tasks)
            .where(t.workspace_id == workspace_id, *is_open)
            .values(
                state=TaskState.CANCELED,
                reasons=NO_REASON,
                enqueued_at=None,
                cancel_cause=cause,
                error=error,
                finished_at=db_now(),
                updated_at=db_now(),
            )
            .returning(t.id, t.run_id, t.attempt, t.key)
        )
        canceled += tx.execute(statement).mappings()
    return canceled


def reopen(tx: Connection, workspace_id: str, task_id: str, *, pending: int) -> bool:
    """Move failed or canceled to queued, or to blocked with *pending* dependencies; reset the counters."""
    move = TaskMove.BLOCK_AGAIN if pending else TaskMove.REOPEN
    statement = (
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id == task_id, t.state.in_(MOVES[move][0]))
        .values(
            state=MOVES[move][1],
            reasons=BlockReason.DEPENDENCIES if pending else NO_REASON,
            pending=pending,
            **RESET_COUNTERS,
            enqueued_at=None,
            not_before=None,
            cancel_cause=None,
            error=None,
            finished_at=None,
            updated_at=db_now(),
        )
        .returning(t.id)
    )
    return tx.execute(statement).first() is not None


def reset_counters(tx: Connection, workspace_id: str, task_id: str) -> None:
    """Reset the counters of a blocked task."""
    where = (t.workspace_id == workspace_id, t.id == task_id, t.state == TaskState.BLOCKED)
    tx.execute(update(tasks).where(*where).values(**RESET_COUNTERS))


def get(tx: Connection, workspace_id: str, task_id: str) -> TaskRecord | None:
    """Return a task, or None."""
    row = tx.execute(SELECT_TASKS.where(t.workspace_id == workspace_id, t.id == task_id)).mappings().first()
    return None if row is None else task_of(row)


def of_run(tx: Connection, workspace_id: str, run_id: str) -> list[TaskRecord]:
    """Return all tasks of a run, in the order of the plan."""
    rows = tx.execute(SELECT_TASKS.where(t.workspace_id == workspace_id, t.run_id == run_id).order_by(t.id))
    return [task_of(row) for row in rows.mappings()]


def lock_by_key(tx: Connection, workspace_id: str, run_id: str, keys: Sequence[str]) -> dict[str, TaskRecord]:
    """Lock the run's tasks with these keys (without waiting), and return them by key."""
    records: list[TaskRecord] = []
    for start in range(0, len(keys), BATCH):
        is_named = t.run_id == run_id, t.key.in_(keys[start : start + BATCH])
        statement = SELECT_TASKS.where(t.workspace_id == workspace_id, *is_named).order_by(t.id)
        if tx.dialect.name != "sqlite":
            statement = statement.with_for_update(nowait=True)
        records += map(task_of, tx.execute(statement).mappings())
    return {task.key: task for task in records}


_p = principals_table.c
_IS_DISCOVERED = exists(select(_p.id).where(_p.id == t.created_by, _p.kind == PrincipalKind.TASK))


def count_discovered(tx: Connection, workspace_id: str, run_id: str) -> int:
    """Return the number of a run's discovered tasks."""
    where = t.workspace_id == workspace_id, t.run_id == run_id, _IS_DISCOVERED
    return tx.execute(select(func.count()).where(*where)).scalar_one()


def parts(tx: Connection, workspace_id: str, task_id: str) -> list[TaskRecord]:
    """Return the tasks that the system derived from a task: its variants and the tasks of its review loop."""
    rows = tx.execute(SELECT_TASKS.where(t.workspace_id == workspace_id, t.parent_id == task_id).order_by(t.id))
    return [task for task in map(task_of, rows.mappings()) if task.options.get("role")]


def add_pending(tx: Connection, workspace_id: str, task_id: str, more: int) -> None:
    """Make a blocked task wait for *more* further tasks."""
    tx.execute(
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id == task_id, t.state == TaskState.BLOCKED)
        .values(pending=t.pending + more, reasons=t.reasons.op("|")(int(BlockReason.DEPENDENCIES)))
    )


def set_carried(tx: Connection, workspace_id: str, task_id: str, carried: Mapping[str, Any]) -> None:
    """Replace the values for the task's next attempt."""
    tx.execute(update(tasks).where(t.workspace_id == workspace_id, t.id == task_id).values(carried=dict(carried)))


def set_carried_by_attempt(
    tx: Connection, workspace_id: str, task_id: str, attempt: int, carried: Mapping[str, Any]
) -> None:
    """Replace the values for the task's next attempt, if the fence of this running attempt is valid."""
    is_running = t.id == task_id, t.attempt == attempt, t.state == TaskState.RUNNING
    tx.execute(update(tasks).where(t.workspace_id == workspace_id, *is_running).values(carried=dict(carried)))


def ready_of_project(tx: Connection, workspace_id: str, project_id: str, *, limit: int = 1000) -> list[TaskRecord]:
    """Return the project's ready tasks, best first."""
    is_ready = t.state == TaskState.QUEUED, or_(t.not_before.is_(None), t.not_before <= db_now())
    statement = SELECT_TASKS.where(t.workspace_id == workspace_id, t.project_id == project_id, *is_ready)
    rows = tx.execute(statement.order_by(t.priority.desc(), t.id).limit(limit))
    return [task_of(row) for row in rows.mappings()]


_OPEN_STATES = (
    select(t.state)
    .where(t.workspace_id == bindparam("ws"), t.run_id == bindparam("run"), t.state.in_(OPEN))
    .order_by(t.run_id, t.state)  # the order of the index, so that the planner uses it
    .limit(bindparam("most"))
)


def open_states(tx: Connection, workspace_id: str, run_id: str, *, limit: int = 65) -> list[str]:
    """Return the states of up to *limit* open tasks of a run."""
    return list(tx.execute(_OPEN_STATES, {"ws": workspace_id, "run": run_id, "most": limit}).scalars())


def open_ids(tx: Connection, workspace_id: str, run_id: str) -> list[str]:
    """Return the ids of a run's open tasks."""
    statement = select(t.id).where(t.workspace_id == workspace_id, t.run_id == run_id, t.state.in_(OPEN))
    return list(tx.execute(statement.order_by(t.id)).scalars())


def canceled_by_dependency(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    """Return the tasks of *ids* that were canceled because a dependency ended without success."""
    result: list[str] = []
    canceled = _BY_IDS.where(t.state == TaskState.CANCELED, t.cancel_cause == CancelCause.DEPENDENCY)
    for start in range(0, len(ids), BATCH):
        result += tx.execute(canceled, {"ws": workspace_id, "ids": ids[start : start + BATCH]}).scalars()
    return result


def get_failure_policies(tx: Connection, workspace_id: str, ids: Sequence[str]) -> dict[str, OnDependencyFailure]:
    """Return the dependency failure policy of each of *ids*."""
    rows = tx.execute(select(t.id, t.on_dependency_failure).where(t.workspace_id == workspace_id, t.id.in_(ids)))
    return {row.id: OnDependencyFailure(row.on_dependency_failure) for row in rows}


def get_states(tx: Connection, workspace_id: str, ids: Sequence[str]) -> dict[str, tuple[TaskState, int]]:
    """Return the state and the attempt of each of *ids*."""
    rows = tx.execute(select(t.id, t.state, t.attempt).where(t.workspace_id == workspace_id, t.id.in_(ids)))
    return {row.id: (TaskState(row.state), row.attempt) for row in rows}


def set_priority(tx: Connection, workspace_id: str, task_id: str, priority: int) -> bool:
    """Change the priority of an open task. Return whether it was open. A queued task is enqueued again."""
    statement = (
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id == task_id, t.state.in_(OPEN))
        .values(priority=priority, updated_at=db_now(), enqueued_at=None)
        .returning(t.id)
    )
    return tx.execute(statement).first() is not None


_CONVERTED = {"state", "on_dependency_failure", "carried_over"}
_OWN_COLUMNS = tuple(name for name in TaskRecord.__slots__ if name not in _CONVERTED)


def task_of(row: RowMapping) -> TaskRecord:
    """Return the record of a row."""
    return TaskRecord(
        **{name: row[name] for name in _OWN_COLUMNS},
        state=TaskState(row["state"]),
        on_dependency_failure=OnDependencyFailure(row["on_dependency_failure"]),
        carried_over=row["carried"] or {},
    )


def insert(
    tx: Connection, workspace_id: str, rows: Iterable[dict[str, Any]], *, creator: str, agents: Collection[str]
) -> None:
    """Store new tasks of *creator*. The ``agent`` of each row is a name in *agents*, or None."""
    created_by = principals.id_of(tx, workspace_id, creator)
    ids: dict[str | None, str | None] = {None: None}
    if agents:
        ids.update(principals.agent_ids(tx, workspace_id, agents))
    insert_rows(tx, tasks, (_complete_row(row, workspace_id, created_by, ids) for row in rows))


def _complete_row(
    row: dict[str, Any], workspace_id: str, created_by: str, agents: Mapping[str | None, str | None]
) -> dict[str, Any]:
    row["workspace_id"] = workspace_id
    row["created_by"] = created_by
    row["agent_id"] = agents[row.pop("agent")]
    return row
