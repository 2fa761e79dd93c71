"""Statements on attempts: a claim opens them, and their end closes them once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, Text, bindparam, cast, func, insert, select, update

from coordination.domain.tasks.attempts import Attempt, Outcome
from coordination.domain.tasks.tasks import TaskState
from coordination.store.queries.access.principals import name_of
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after, db_now, looked_up

a = attempts.c

_PAGE = 200


def insert_many(tx: Connection, rows: Sequence[dict[str, Any]], *, lease: timedelta) -> None:
    """Store open attempts with a lease."""
    tx.execute(
        insert(attempts).values(lease_until=db_after(bindparam("lease"))),
        [{**row, "lease": lease.total_seconds()} for row in rows],
    )


# Forces lookups by key, as in completions.
_LOCK = """
SELECT a.task_id FROM unnest(%(ids)s::uuid[], %(numbers)s::int[]) AS fence (id, number)
JOIN attempts a ON a.task_id = ANY(ARRAY[fence.id]) AND a.number = ANY(ARRAY[fence.number])
WHERE a.workspace_id = %(workspace)s::uuid ORDER BY a.task_id, a.number FOR UPDATE OF a"""
_LOCK_NOW = f"{_LOCK} NOWAIT"


def lock(tx: Connection, workspace_id: str, fences: Collection[tuple[str, int]], *, nowait: bool = False) -> None:
    """Lock these attempts, (task id, number) each. *nowait*: as in ``tasks.lock``."""
    if tx.dialect.name == "sqlite" or not fences:
        return
    ids, numbers = zip(*fences, strict=True)
    values = {"workspace": workspace_id, "ids": list(ids), "numbers": list(numbers)}
    tx.exec_driver_sql(_LOCK_NOW if nowait else _LOCK, values).all()


_CLOSE = (
    update(attempts)
    .where(
        a.workspace_id == bindparam("ws"),
        a.task_id == bindparam("b_task"),
        a.number == bindparam("b_number"),
        a.finished_at.is_(None),
    )
    .values(
        finished_at=db_now(),
        outcome=bindparam("b_outcome"),
        exit_code=bindparam("b_exit_code"),
        error=bindparam("b_error"),
        output=bindparam("b_output"),
        log=bindparam("b_log"),
        began=bindparam("b_began"),
    )
)


def close_many(tx: Connection, workspace_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Close attempts whose fence the caller has checked.

    Each row: task, number, outcome, exit_code, error, output, log, began (False: its job was not started; else None).
    """
    ordered = sorted(rows, key=lambda row: row["task"])  # as heartbeats lock them
    tx.execute(_CLOSE, [{"ws": workspace_id, **{f"b_{name}": value for name, value in row.items()}} for row in ordered])


def close_one(tx: Connection, workspace_id: str, row: dict[str, Any]) -> tuple[bool, list[str]]:
    """Close one attempt. Return whether it was open, and the names of its slots."""
    statement = _CLOSE.returning(a.slots)
    closed = tx.execute(statement, {"ws": workspace_id, **{f"b_{name}": value for name, value in row.items()}}).first()
    return (False, []) if closed is None else (True, list(closed.slots or []))


def take_over(
    tx: Connection, workspace_id: str, task_id: str, number: int, *, former_id: str, worker_id: str, lease: timedelta
) -> bool:
    """Move an open attempt from the worker *former_id* to another, with a new lease. Return whether it existed."""
    where = a.workspace_id == workspace_id, a.task_id == task_id, a.number == number, a.worker_id == former_id
    owner = {"worker_id": worker_id, "lease_until": db_after(lease.total_seconds()), "heartbeat_at": db_now()}
    return tx.execute(update(attempts).where(*where, a.finished_at.is_(None)).values(owner)).rowcount > 0


def outcome_of(tx: Connection, workspace_id: str, task_id: str, number: int) -> tuple[Outcome | None, str] | None:
    """Return the outcome of an attempt (None: it is open) and its worker's id; None if there is no such attempt."""
    row = tx.execute(
        select(a.outcome, a.worker_id).where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
    ).first()
    return None if row is None else (Outcome(row.outcome) if row.outcome else None, row.worker_id)


def get_running(tx: Connection, workspace_id: str, task_id: str, number: int) -> RowMapping | None:
    """Return project_id, run_id, agent and agent_id of a running attempt with a valid fence; None for others."""
    t = tasks.c
    statement = (
        select(a.project_id, a.run_id, name_of(t.agent_id).label("agent"), t.agent_id)
        .join(tasks, (t.id == a.task_id) & (t.workspace_id == a.workspace_id))
        .where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number, a.finished_at.is_(None))
        .where(t.attempt == number, t.state == TaskState.RUNNING)
    )
    return tx.execute(statement).mappings().first()


_OF_ATTEMPT = (a.task_id, a.number, a.worker_id, a.slots, a.pgid, a.pg_start, a.reserved)
_COUNTERS = (tasks.c.failures, tasks.c.losses, tasks.c.deferrals, tasks.c.max_attempts, tasks.c.repeatable)
_OF_TASK = (tasks.c.id, tasks.c.run_id, tasks.c.project_id, tasks.c.key, tasks.c.state, tasks.c.attempt, *_COUNTERS)


def lock_expired(tx: Connection, workspace_id: str, project_id: str) -> list[dict[str, Any]]:
    """Lock and return open attempts of the project with an expired lease (database's clock), with their tasks."""
    where = a.project_id == project_id, a.lease_until < db_now()
    return _lock_with_tasks(tx, workspace_id, _list_tasks(tx, workspace_id, *where), *where)


def lock_of_worker(tx: Connection, workspace_id: str, worker_id: str) -> list[dict[str, Any]]:
    """Lock and return all open attempts of a worker with their tasks, a page at a time."""
    rows: list[dict[str, Any]] = []
    of_worker, after = a.worker_id == worker_id, ""
    while ids := _list_tasks(tx, workspace_id, of_worker, cast(a.task_id, Text) > after):
        rows += _lock_with_tasks(tx, workspace_id, ids, of_worker)
        after = ids[-1]
    return rows


def _list_tasks(tx: Connection, workspace_id: str, *where: Any) -> list[str]:
    """Return the task ids of open attempts, a page of them, without locks."""
    statement = select(a.task_id).where(a.workspace_id == workspace_id, a.finished_at.is_(None), *where)
    # The cast keeps the planner from reading the whole index of the key in its order because of the limit.
    return list(tx.execute(statement.order_by(cast(a.task_id, Text)).limit(_PAGE)).scalars())


def _lock_with_tasks(tx: Connection, workspace_id: str, ids: Sequence[str], *where: Any) -> list[dict[str, Any]]:
    """Lock tasks, then their attempts, and return the joined rows. Skips rows with locks: these are being ended.

    Two statements: with outdated statistics, the planner would read both tables whole for a join.
    """
    if not ids:
        return []
    task_rows = tx.execute(
        select(*_OF_TASK)
        .where(tasks.c.workspace_id == workspace_id, tasks.c.id.in_(ids))
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
    ).mappings()
    by_id = {row["id"]: dict(row) for row in task_rows}
    if not by_id:
        return []
    statement = (
        select(*_OF_ATTEMPT)
        .where(a.workspace_id == workspace_id, a.finished_at.is_(None), *where, a.task_id.in_(list(by_id)))
        .order_by(a.task_id)
        .with_for_update(skip_locked=True)
    )
    return [dict(row) | by_id[row["task_id"]] for row in tx.execute(statement).mappings()]


def unfinished(tx: Connection, workspace_id: str, fences: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return those of the (task id, number) pairs whose attempt is open."""
    is_open = a.task_id.in_([task_id for task_id, _ in fences]), a.outcome.is_(None)
    rows = tx.execute(select(a.task_id, a.number).where(a.workspace_id == workspace_id, *is_open))
    return {(row.task_id, row.number) for row in rows} & set(fences)


def record_process(tx: Connection, workspace_id: str, task_id: str, number: int, *, pgid: int, pg_start: float) -> None:
    """Record the process group that runs an attempt."""
    attempt = update(attempts).where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
    tx.execute(attempt.where(a.finished_at.is_(None)).values(pgid=pgid, pg_start=pg_start))


def record_details(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    number: int,
    details: dict[str, Any],
    *,
    conversation: Mapping[str, Any] | None = None,
) -> None:
    """Store the details of an ended attempt whose fence the caller has checked, and its *conversation*."""
    values: dict[str, Any] = {"details": details} if details else {}
    if conversation is not None:
        values |= {"conversation_id": conversation.get("session"), "turn": conversation.get("turn")}
    attempt = update(attempts).where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
    tx.execute(attempt.values(**values))


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Attempt]:
    """Return all attempts of a task, oldest first."""
    rows = tx.execute(
        select(attempts, workers.c.name.label("worker_name"), workers.c.host)
        .outerjoin(workers, workers.c.id == a.worker_id)
        .where(a.workspace_id == workspace_id, a.task_id == task_id)
        .order_by(a.number)
    )
    return [_attempt(row) for row in rows.mappings()]


def latest(tx: Connection, workspace_id: str, task_id: str) -> Attempt | None:
    """Return the newest attempt of a task, or None."""
    all_attempts = of_task(tx, workspace_id, task_id)
    return all_attempts[-1] if all_attempts else None


def keys_using(tx: Connection, workspace_id: str, project_id: str, slot: str) -> list[str]:
    """Return the keys of the tasks whose open attempts use this slot."""
    rows = tx.execute(
        select(tasks.c.key, a.slots)
        .join(attempts, a.task_id == tasks.c.id)
        .where(a.workspace_id == workspace_id, a.project_id == project_id, a.finished_at.is_(None))
        .where(a.slots.is_not(None))
        .order_by(tasks.c.key)
    )
    return [row.key for row in rows if slot in row.slots]


_NEWEST = (a.task_id == looked_up(tasks.c.id)) & (a.number == looked_up(tasks.c.attempt))


def list_running(tx: Connection, workspace_id: str, run_id: str) -> list[RowMapping]:
    """Return the running attempts of a run: key, title, number, worker, host, started_at, and the database's now."""
    t, w = tasks.c, workers.c
    statement = (
        select(t.key, t.title, a.number, w.name.label("worker"), w.host, a.started_at, db_now().label("now"))
        .join(attempts, _NEWEST)
        .outerjoin(workers, w.id == a.worker_id)
        .where(t.workspace_id == workspace_id, t.run_id == run_id, t.state == TaskState.RUNNING)
        .where(a.finished_at.is_(None))
        .order_by(a.started_at)
    )
    return list(tx.execute(statement).mappings())


def outputs_of_run(tx: Connection, workspace_id: str, run_id: str) -> dict[str, Any]:
    """Return the outputs of the run's completed tasks, by task id."""
    t = tasks.c
    where = t.workspace_id == workspace_id, t.run_id == run_id, t.state == TaskState.COMPLETED
    rows = tx.execute(select(t.id, a.output).join(attempts, _NEWEST).where(*where))
    return {row.id: row.output for row in rows}


def count_open(tx: Connection, workspace_id: str, project_id: str) -> int:
    """Return the number of the project's open attempts."""
    where = a.workspace_id == workspace_id, a.project_id == project_id, a.finished_at.is_(None)
    return tx.execute(select(func.count()).where(*where)).scalar_one()


_OWN_COLUMNS = tuple(name for name in Attempt.__slots__ if name not in {"worker", "outcome"})


def _attempt(row: RowMapping) -> Attempt:
    outcome = Outcome(row["outcome"]) if row["outcome"] else None
    return Attempt(**{name: row[name] for name in _OWN_COLUMNS}, worker=row["worker_name"], outcome=outcome)
