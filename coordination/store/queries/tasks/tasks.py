"""Statements on tasks: the guarded moves of the task machine, and reading them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from coordination.domain.access.principals import PrincipalKind
from coordination.domain.tasks.task_limits import DEFERRAL_LIMIT
from coordination.domain.tasks.tasks import (
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
from coordination.store.queries.access import principals
from coordination.store.queries.tasks.attempt_counters import FRESH, CounterChanges, added, is_over
from coordination.store.tables.access.principals import principals as principals_table
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import Reasons, db_after, db_now

BATCH = 500

FOUND_BY = "task:"
"""How the creator of a task begins that another task found."""

t = tasks.c

SELECT_TASKS = select(
    tasks, principals.name_of(t.agent_id).label("agent"), principals.text_of(t.created_by).label("creator")
)
"""The tasks, with the names of their agents and of who created them: what ``task_of`` reads."""


def _fenced(move: TaskMove, workspace_id: str, task_id: str, attempt: int) -> Any:
    return update(tasks).where(
        t.workspace_id == workspace_id, t.id == task_id, t.attempt == attempt, t.state.in_(MOVES[move][0])
    )


def _leaving(statement: Any, carried: Mapping[str, Any] | None) -> Any:
    """With what this attempt leaves to the next one; None leaves what there is."""
    return statement if carried is None else statement.values(carried=dict(carried))


_IN_LIMITS = (t.id, t.state, t.starts, t.max_starts, t.deferrals, t.deferred_since, t.consecutive_losses)


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
    """Running back to queued after *wait*, or to blocked when it has reached a limit; None: this attempt lost it.

    The state and the counters that it has then, and ``now``.
    """
    over = is_over(counts, deferral_limit)
    statement = _fenced(TaskMove.RETRY_LATER, workspace_id, task_id, attempt).values(
        state=case((over, TaskState.BLOCKED.value), else_=TaskState.QUEUED.value),
        reasons=case((over, literal(BlockReason.LIMIT, Reasons)), else_=literal(NO_REASON, Reasons)),
        enqueued_at=None,
        not_before=case((over, None), else_=db_after(wait.total_seconds())) if wait else None,
        **added(counts),
        error=error,
        updated_at=db_now(),
    )
    return tx.execute(_leaving(statement, carried).returning(*_IN_LIMITS, db_now().label("now"))).mappings().first()


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
    """Running to failed; whether this attempt still held it."""
    statement = _fenced(TaskMove.FAIL, workspace_id, task_id, attempt).values(
        state=TaskState.FAILED, **added(counts), error=error, finished_at=db_now(), updated_at=db_now()
    )
    return tx.execute(_leaving(statement, carried).returning(t.id)).first() is not None


def wait(
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
    """Running to blocked for *reason*, and for a limit that it has reached; whether this attempt still held it."""
    both = literal(reason | BlockReason.LIMIT, Reasons)
    statement = _fenced(TaskMove.WAIT, workspace_id, task_id, attempt).values(
        state=TaskState.BLOCKED,
        reasons=case((is_over(counts), both), else_=literal(reason, Reasons)),
        **added(counts),
        error=error,
        updated_at=db_now(),
    )
    return tx.execute(_leaving(statement, carried).returning(t.id)).first() is not None


_LOCK = (
    select(t.id)
    .where(t.workspace_id == bindparam("ws"), t.id.in_(bindparam("ids", expanding=True)))
    .order_by(t.id)
    .with_for_update()
)


_LOCK_NOW = _LOCK.with_for_update(nowait=True)


def lock(tx: Connection, workspace_id: str, ids: Iterable[str], *, nowait: bool = False) -> None:
    """Lock these rows in id order. *nowait*: fail, to be begun anew, when somebody else has one: for late locks."""
    if tx.dialect.name != "sqlite":  # its one writer has the whole file
        ordered, statement = sorted(set(ids)), _LOCK_NOW if nowait else _LOCK
        for start in range(0, len(ordered), BATCH):
            tx.execute(statement, {"ws": workspace_id, "ids": ordered[start : start + BATCH]}).all()


def cancel(
    tx: Connection, workspace_id: str, ids: Sequence[str], *, cause: CancelCause, error: str
) -> list[RowMapping]:
    """Cancel those of *ids* that are open; (id, run id, attempt, key) of those that were."""
    found: list[RowMapping] = []
    for start in range(0, len(ids), BATCH):
        statement = (
            update(tasks)
            .where(
                t.workspace_id == workspace_id,
                t.id.in_(ids[start : start + BATCH]),
                t.state.in_(MOVES[TaskMove.CANCEL][0]),
            )
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
        found += tx.execute(statement).mappings()
    return found


def reopen(tx: Connection, workspace_id: str, task_id: str, *, pending: int) -> bool:
    """Failed or canceled back to queued, or to blocked while *pending* dependencies are open; counters start anew."""
    move = TaskMove.BLOCK_AGAIN if pending else TaskMove.REOPEN
    statement = (
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id == task_id, t.state.in_(MOVES[move][0]))
        .values(
            state=MOVES[move][1],
            reasons=BlockReason.DEPENDENCIES if pending else NO_REASON,
            pending=pending,
            **FRESH,
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


def count_anew(tx: Connection, workspace_id: str, task_id: str) -> None:
    """Forget the counters of a blocked task."""
    mine = (t.workspace_id == workspace_id, t.id == task_id, t.state == TaskState.BLOCKED)
    tx.execute(update(tasks).where(*mine).values(**FRESH))


def get(tx: Connection, workspace_id: str, task_id: str) -> TaskRecord | None:
    """One task, or None."""
    row = tx.execute(SELECT_TASKS.where(t.workspace_id == workspace_id, t.id == task_id)).mappings().first()
    return None if row is None else task_of(row)


def of_run(tx: Connection, workspace_id: str, run_id: str) -> list[TaskRecord]:
    """All tasks of a run, in the order of the plan."""
    rows = tx.execute(SELECT_TASKS.where(t.workspace_id == workspace_id, t.run_id == run_id).order_by(t.id))
    return [task_of(row) for row in rows.mappings()]


def keyed(tx: Connection, workspace_id: str, run_id: str, keys: Sequence[str]) -> dict[str, TaskRecord]:
    """Those of a run's tasks that have these keys, by key; locked (late), so that none of them ends meanwhile."""
    found: list[TaskRecord] = []
    for start in range(0, len(keys), BATCH):
        statement = SELECT_TASKS.where(
            t.workspace_id == workspace_id, t.run_id == run_id, t.key.in_(keys[start : start + BATCH])
        ).order_by(t.id)
        if tx.dialect.name != "sqlite":
            statement = statement.with_for_update(nowait=True)
        found += map(task_of, tx.execute(statement).mappings())
    return {task.key: task for task in found}


_IS_DISCOVERED = exists(
    select(principals_table.c.id).where(
        principals_table.c.id == t.created_by, principals_table.c.kind == PrincipalKind.TASK
    )
)


def found_in(tx: Connection, workspace_id: str, run_id: str) -> int:
    """How many of a run's tasks were found by its own work."""
    return tx.execute(
        select(func.count()).where(t.workspace_id == workspace_id, t.run_id == run_id, _IS_DISCOVERED)
    ).scalar_one()


def parts(tx: Connection, workspace_id: str, task_id: str) -> list[TaskRecord]:
    """What the system made of a task: its variants, the tasks of its supervised loop."""
    rows = tx.execute(SELECT_TASKS.where(t.workspace_id == workspace_id, t.parent_id == task_id).order_by(t.id))
    return [task for task in map(task_of, rows.mappings()) if task.options.get("role")]


def hold_for(tx: Connection, workspace_id: str, task_id: str, more: int) -> None:
    """Let an open task wait for *more* tasks."""
    tx.execute(
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id == task_id, t.state == TaskState.BLOCKED)
        .values(pending=t.pending + more, reasons=t.reasons.op("|")(int(BlockReason.DEPENDENCIES)))
    )


def carry(tx: Connection, workspace_id: str, task_id: str, carried: Mapping[str, Any]) -> None:
    """Leave this to the task's next attempt, instead of what was left before."""
    tx.execute(update(tasks).where(t.workspace_id == workspace_id, t.id == task_id).values(carried=dict(carried)))


def carry_on(tx: Connection, workspace_id: str, task_id: str, attempt: int, carried: Mapping[str, Any]) -> None:
    """The same, by the attempt that holds the task; one that was lost leaves nothing."""
    statement = update(tasks).where(
        t.workspace_id == workspace_id, t.id == task_id, t.attempt == attempt, t.state == TaskState.RUNNING
    )
    tx.execute(statement.values(carried=dict(carried)))


def ready_of_project(tx: Connection, workspace_id: str, project_id: str, *, limit: int = 1000) -> list[TaskRecord]:
    """The project's tasks that a worker could take now, best first."""
    rows = tx.execute(
        SELECT_TASKS.where(
            t.workspace_id == workspace_id,
            t.project_id == project_id,
            t.state == TaskState.QUEUED,
            or_(t.not_before.is_(None), t.not_before <= db_now()),
        )
        .order_by(t.priority.desc(), t.id)
        .limit(limit)
    )
    return [task_of(row) for row in rows.mappings()]


_OPEN_STATES = (
    select(t.state)
    .where(t.workspace_id == bindparam("ws"), t.run_id == bindparam("run"), t.state.in_(OPEN))
    .order_by(t.run_id, t.state)  # as the index on them has it, whatever the planner's figures say
    .limit(bindparam("most"))
)


def open_states(tx: Connection, workspace_id: str, run_id: str, *, limit: int = 65) -> list[str]:
    """The states of up to *limit* open tasks of a run."""
    return list(tx.execute(_OPEN_STATES, {"ws": workspace_id, "run": run_id, "most": limit}).scalars())


def open_ids(tx: Connection, workspace_id: str, run_id: str) -> list[str]:
    """The ids of a run's open tasks."""
    return list(
        tx.execute(
            select(t.id).where(t.workspace_id == workspace_id, t.run_id == run_id, t.state.in_(OPEN)).order_by(t.id)
        ).scalars()
    )


def canceled_by_dependency(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    """Those of *ids* that were canceled because something they needed ended without success."""
    found: list[str] = []
    for start in range(0, len(ids), BATCH):
        found += tx.execute(
            select(t.id).where(
                t.workspace_id == workspace_id,
                t.id.in_(ids[start : start + BATCH]),
                t.state == TaskState.CANCELED,
                t.cancel_cause == CancelCause.DEPENDENCY,
            )
        ).scalars()
    return found


def policies(tx: Connection, workspace_id: str, ids: Sequence[str]) -> dict[str, OnDependencyFailure]:
    """What each of *ids* wants when a dependency fails."""
    rows = tx.execute(select(t.id, t.on_dependency_failure).where(t.workspace_id == workspace_id, t.id.in_(ids)))
    return {row.id: OnDependencyFailure(row.on_dependency_failure) for row in rows}


def state_of(tx: Connection, workspace_id: str, ids: Sequence[str]) -> dict[str, tuple[TaskState, int]]:
    """State and attempt of each of *ids*."""
    rows = tx.execute(select(t.id, t.state, t.attempt).where(t.workspace_id == workspace_id, t.id.in_(ids)))
    return {row.id: (TaskState(row.state), row.attempt) for row in rows}


def set_priority(tx: Connection, workspace_id: str, task_id: str, priority: int) -> bool:
    """Change the priority of an open task; what waits in a queue is rung again at its new place."""
    statement = (
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id == task_id, t.state.in_(OPEN))
        .values(priority=priority, updated_at=db_now(), enqueued_at=None)
        .returning(t.id)
    )
    return tx.execute(statement).first() is not None


def task_of(row: RowMapping) -> TaskRecord:
    """The domain's record of a row."""
    return TaskRecord(
        id=row["id"],
        workspace_id=row["workspace_id"],
        project_id=row["project_id"],
        run_id=row["run_id"],
        key=row["key"],
        title=row["title"],
        state=TaskState(row["state"]),
        reasons=row["reasons"],
        work=row["work"],
        input=row["input"],
        agent=row["agent"],
        creator=row["creator"],
        parent_id=row["parent_id"],
        priority=row["priority"],
        pending=row["pending"],
        attempt=row["attempt"],
        failures=row["failures"],
        losses=row["losses"],
        deferrals=row["deferrals"],
        deferred_since=row["deferred_since"],
        starts=row["starts"],
        max_starts=row["max_starts"],
        consecutive_losses=row["consecutive_losses"],
        max_attempts=row["max_attempts"],
        timeout=row["timeout"],
        stall_timeout=row["stall_timeout"],
        repeatable=row["repeatable"],
        on_dependency_failure=OnDependencyFailure(row["on_dependency_failure"]),
        concurrency_key=row["concurrency_key"],
        not_before=row["not_before"],
        due_at=row["due_at"],
        error=row["error"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
        workdir=row["workdir"],
        options=row["options"],
        carried=row["carried"] or {},
        authority=row["authority"],
    )
