"""Statements on attempts: opened by a claim, closed once, by whoever ends them."""

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


def insert_many(tx: Connection, rows: Sequence[dict[str, Any]], *, lease: timedelta) -> None:
    """Open attempts with a lease of their own."""
    tx.execute(
        insert(attempts).values(lease_until=db_after(bindparam("lease"))),
        [{**row, "lease": lease.total_seconds()} for row in rows],
    )


# Looked up one by one, whatever a planner thinks of the order: see completions.
_LOCK = """
SELECT a.task_id FROM unnest(%(ids)s::uuid[], %(numbers)s::int[]) AS wanted (id, number)
JOIN attempts a ON a.task_id = ANY(ARRAY[wanted.id]) AND a.number = ANY(ARRAY[wanted.number])
WHERE a.workspace_id = %(workspace)s::uuid ORDER BY a.task_id, a.number FOR UPDATE OF a"""
_LOCK_NOW = f"{_LOCK} NOWAIT"


def lock(tx: Connection, workspace_id: str, fences: Collection[tuple[str, int]], *, nowait: bool = False) -> None:
    """Lock these (task, number), as ``tasks.lock`` does with tasks."""
    if tx.dialect.name == "sqlite" or not fences:
        return
    ids, numbers = zip(*fences, strict=True)
    given = {"workspace": workspace_id, "ids": list(ids), "numbers": list(numbers)}
    tx.exec_driver_sql(_LOCK_NOW if nowait else _LOCK, given).all()


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
    """Close attempts that the caller holds by their task's fence.

    Each row: task, number, outcome, exit_code, error, output, log, began (False: its job was never started; None).
    """
    ordered = sorted(rows, key=lambda row: row["task"])  # as heartbeats lock them
    tx.execute(_CLOSE, [{"ws": workspace_id, **{f"b_{name}": value for name, value in row.items()}} for row in ordered])


def close_one(tx: Connection, workspace_id: str, row: dict[str, Any]) -> tuple[bool, list[str]]:
    """Close one attempt if nobody has; whether it was open, and the slots it held."""
    statement = _CLOSE.returning(a.slots)
    found = tx.execute(statement, {"ws": workspace_id, **{f"b_{name}": value for name, value in row.items()}}).first()
    return (False, []) if found is None else (True, list(found.slots or []))


def take_over(
    tx: Connection, workspace_id: str, task_id: str, number: int, *, former_id: str, worker_id: str, lease: timedelta
) -> bool:
    """Give an open attempt of the worker *former_id* to another one, with a fresh lease; whether it was there."""
    moved = tx.execute(
        update(attempts)
        .where(
            a.workspace_id == workspace_id,
            a.task_id == task_id,
            a.number == number,
            a.worker_id == former_id,
            a.finished_at.is_(None),
        )
        .values(worker_id=worker_id, lease_until=db_after(lease.total_seconds()), heartbeat_at=db_now())
    )
    return moved.rowcount > 0


def outcome_of(tx: Connection, workspace_id: str, task_id: str, number: int) -> tuple[Outcome | None, str] | None:
    """How an attempt ended (None: it has not) and which worker held it; None when there is no such attempt."""
    row = tx.execute(
        select(a.outcome, a.worker_id).where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
    ).first()
    return None if row is None else (Outcome(row.outcome) if row.outcome else None, row.worker_id)


def running(tx: Connection, workspace_id: str, task_id: str, number: int) -> RowMapping | None:
    """Return project_id, run_id and agent of an attempt that runs and still holds its task; None for every other."""
    t = tasks.c
    return (
        tx.execute(
            select(a.project_id, a.run_id, name_of(t.agent_id).label("agent"), t.agent_id)
            .join(tasks, (t.id == a.task_id) & (t.workspace_id == a.workspace_id))
            .where(
                a.workspace_id == workspace_id,
                a.task_id == task_id,
                a.number == number,
                a.finished_at.is_(None),
                t.attempt == number,
                t.state == TaskState.RUNNING,
            )
        )
        .mappings()
        .first()
    )


_OF_ATTEMPT = (a.task_id, a.number, a.worker_id, a.slots, a.pgid, a.pg_start, a.reserved)
_OF_TASK = (
    tasks.c.id,
    tasks.c.run_id,
    tasks.c.key,
    tasks.c.state,
    tasks.c.attempt,
    tasks.c.failures,
    tasks.c.losses,
    tasks.c.deferrals,
    tasks.c.max_attempts,
    tasks.c.repeatable,
    tasks.c.project_id,
    tasks.c.workspace_id,
)


def lock_expired(tx: Connection, workspace_id: str, project_id: str, *, limit: int = 200) -> list[dict[str, Any]]:
    """Open attempts of the project whose lease has run out by the database's clock, with their tasks; locked."""
    which = a.project_id == project_id, a.lease_until < db_now()
    return _locked(tx, workspace_id, _seen(tx, workspace_id, limit, *which), *which)


def lock_of_worker(tx: Connection, workspace_id: str, worker_id: str, *, page: int = 200) -> list[dict[str, Any]]:
    """All open attempts of a worker that is known to be gone, with their tasks; locked, a page at a time."""
    found: list[dict[str, Any]] = []
    mine, after = a.worker_id == worker_id, ""
    while seen := _seen(tx, workspace_id, page, mine, cast(a.task_id, Text) > after):
        found += _locked(tx, workspace_id, seen, mine)
        after = seen[-1]
    return found


def _seen(tx: Connection, workspace_id: str, limit: int, *which: Any) -> list[str]:
    """The tasks of some open attempts, as they look now."""
    asked = select(a.task_id).where(a.workspace_id == workspace_id, a.finished_at.is_(None), *which)
    # Not in the order of the key: with a limit, all of its index may be read in that order.
    return list(tx.execute(asked.order_by(cast(a.task_id, Text)).limit(limit)).scalars())


def _locked(tx: Connection, workspace_id: str, seen: Sequence[str], *which: Any) -> list[dict[str, Any]]:
    """What somebody else has locked is left out: it is being ended. Tasks are locked before their attempts.

    Several statements: of a join, a planner with figures from another time reads both tables whole.
    """
    if not seen:
        return []
    found = tx.execute(
        select(*_OF_TASK)
        .where(tasks.c.workspace_id == workspace_id, tasks.c.id.in_(seen))
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
    ).mappings()
    mine = {row["id"]: dict(row) for row in found}
    if not mine:
        return []
    still = (
        select(*_OF_ATTEMPT)
        .where(a.workspace_id == workspace_id, a.finished_at.is_(None), *which, a.task_id.in_(list(mine)))
        .order_by(a.task_id)
        .with_for_update(skip_locked=True)
    )
    return [dict(row) | mine[row["task_id"]] for row in tx.execute(still).mappings()]


def unfinished(tx: Connection, workspace_id: str, held: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the (task, number) pairs whose attempt nobody has ended."""
    rows = tx.execute(
        select(a.task_id, a.number).where(
            a.workspace_id == workspace_id,
            a.task_id.in_([task_id for task_id, _ in held]),
            a.outcome.is_(None),
        )
    )
    return {(row.task_id, row.number) for row in rows} & set(held)


def note_process(tx: Connection, workspace_id: str, task_id: str, number: int, *, pgid: int, pg_start: float) -> None:
    """Record the process group that runs an attempt."""
    tx.execute(
        update(attempts)
        .where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number, a.finished_at.is_(None))
        .values(pgid=pgid, pg_start=pg_start)
    )


def note_details(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    number: int,
    details: dict[str, Any],
    *,
    conversation: Mapping[str, Any] | None = None,
) -> None:
    """Keep what else is known of the end of an attempt that the caller holds, and the *conversation* that it had."""
    values: dict[str, Any] = {"details": details} if details else {}
    if conversation is not None:
        values |= {"conversation_id": conversation.get("session"), "turn": conversation.get("turn")}
    tx.execute(
        update(attempts)
        .where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
        .values(**values)
    )


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Attempt]:
    """All attempts of a task, oldest first."""
    rows = tx.execute(
        select(attempts, workers.c.name.label("worker_name"), workers.c.host)
        .outerjoin(workers, workers.c.id == a.worker_id)
        .where(a.workspace_id == workspace_id, a.task_id == task_id)
        .order_by(a.number)
    )
    return [_attempt(row) for row in rows.mappings()]


def latest(tx: Connection, workspace_id: str, task_id: str) -> Attempt | None:
    """The newest attempt of a task."""
    found = of_task(tx, workspace_id, task_id)
    return found[-1] if found else None


def keys_using(tx: Connection, workspace_id: str, project_id: str, slot: str) -> list[str]:
    """The keys of the tasks whose open attempts use a place of this slot."""
    rows = tx.execute(
        select(tasks.c.key, a.slots)
        .join(attempts, a.task_id == tasks.c.id)
        .where(
            a.workspace_id == workspace_id,
            a.project_id == project_id,
            a.finished_at.is_(None),
            a.slots.is_not(None),
        )
        .order_by(tasks.c.key)
    )
    return [row.key for row in rows if slot in row.slots]


_NEWEST = (a.task_id == looked_up(tasks.c.id)) & (a.number == looked_up(tasks.c.attempt))


def running_in_run(tx: Connection, workspace_id: str, run_id: str) -> list[RowMapping]:
    """What runs now: key, title, number, worker, host, started_at, and the database's now."""
    return list(
        tx.execute(
            select(
                tasks.c.key,
                tasks.c.title,
                a.number,
                workers.c.name.label("worker"),
                workers.c.host,
                a.started_at,
                db_now().label("now"),
            )
            .join(attempts, _NEWEST)
            .outerjoin(workers, workers.c.id == a.worker_id)
            .where(
                tasks.c.workspace_id == workspace_id,
                tasks.c.run_id == run_id,
                tasks.c.state == TaskState.RUNNING,
                a.finished_at.is_(None),
            )
            .order_by(a.started_at)
        ).mappings()
    )


def outputs_of_run(tx: Connection, workspace_id: str, run_id: str) -> dict[str, Any]:
    """What the run's completed tasks produced, by task id."""
    rows = tx.execute(
        select(tasks.c.id, a.output)
        .join(attempts, _NEWEST)
        .where(
            tasks.c.workspace_id == workspace_id,
            tasks.c.run_id == run_id,
            tasks.c.state == TaskState.COMPLETED,
        )
    )
    return {row.id: row.output for row in rows}


def count_open(tx: Connection, workspace_id: str, project_id: str) -> int:
    """How many attempts of the project are open."""
    return tx.execute(
        select(func.count()).where(a.workspace_id == workspace_id, a.project_id == project_id, a.finished_at.is_(None))
    ).scalar_one()


def _attempt(row: RowMapping) -> Attempt:
    return Attempt(
        task_id=row["task_id"],
        number=row["number"],
        worker=row["worker_name"],
        host=row["host"],
        started_at=row["started_at"],
        heartbeat_at=row["heartbeat_at"],
        progress_at=row["progress_at"],
        lease_until=row["lease_until"],
        finished_at=row["finished_at"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        exit_code=row["exit_code"],
        error=row["error"],
        output=row["output"],
        log=row["log"],
        account=row["account"],
        conversation_id=row["conversation_id"],
        turn=row["turn"],
        details=row["details"],
    )
