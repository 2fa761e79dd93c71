"""Statements of worker processes across workspaces, and on the key that signs their messages.

Only these queries have no workspace: a worker may serve several. They return ids and times, and no content.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, case, delete, exists, func, or_, select, text, tuple_, update

from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import TaskState
from coordination.store.driver import insert_into
from coordination.store.queries import one_of
from coordination.store.tables.fleet.broker_keys import broker_keys
from coordination.store.tables.fleet.workers import supervisors, workers
from coordination.store.tables.projects.projects import projects, workspaces
from coordination.store.tables.projects.stops import stops
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import commit_order, db_after, db_now

w, a, t, s, r, st = workers.c, attempts.c, tasks.c, supervisors.c, runs.c, stops.c


@dataclass(frozen=True, slots=True)
class Renewal:
    """The result of a heartbeat for one attempt: the task's current state and attempt number.

    ``stopped``: 1 if a stop without grace covers its project, 0 for a stop with one, else None.
    """

    task_id: str
    number: int
    state: str
    attempt: int
    stopped: int | None = None


def database_time(tx: Connection) -> datetime:
    """Return the database's time at the start of the transaction."""
    return tx.execute(select(db_now())).scalar_one()


def transaction_id(tx: Connection) -> int:
    """Return the id of this transaction for ``is_committed``; 0 on SQLite, where no answer is lost."""
    return int(tx.execute(select(commit_order())).scalar_one())


_STATUS = text("SELECT pg_xact_status(CAST(CAST(:number AS text) AS xid8))")


def is_committed(tx: Connection, number: int) -> bool | None:
    """Return whether that transaction was committed; None while it is open. PostgreSQL only."""
    status = tx.execute(_STATUS, {"number": str(number)}).scalar()
    return None if status == "in progress" else status == "committed"


def register(tx: Connection, row: dict[str, Any]) -> None:
    """Store the row of a new worker process."""
    tx.execute(workers.insert().values(**row))


_OPEN_KEYS = (
    a.worker_id == bindparam("worker"),
    a.finished_at.is_(None),
    tuple_(a.task_id, a.number).in_(bindparam("keys", expanding=True)),
)
# Locked in the order in which ends of attempts lock them.
_LOCK_ATTEMPTS = select(a.task_id, a.number).where(*_OPEN_KEYS).order_by(a.task_id, a.number).with_for_update()
_RENEW = (
    update(attempts)
    .where(*_OPEN_KEYS)
    .values(lease_until=db_after(bindparam("ttl")), heartbeat_at=db_now())
    .returning(
        a.task_id,
        a.number,
        select(t.state).where(t.id == a.task_id).scalar_subquery().label("state"),
        select(t.attempt).where(t.id == a.task_id).scalar_subquery().label("attempt"),
        select(func.max(case((st.at_once, 1), else_=0)))
        .where(st.workspace_id == a.workspace_id, st.ended_at.is_(None))
        .where(or_(st.project_id.is_(None), st.project_id == a.project_id))
        .scalar_subquery()
        .label("stopped"),
    )
)


def renew(tx: Connection, worker_id: str, keys: Sequence[tuple[str, int]], *, ttl: timedelta) -> list[Renewal]:
    """Renew the leases of the worker's (task id, attempt) *keys*, and return the states of their tasks.

    An attempt that is missing in the result was taken from the worker.
    """
    if tx.dialect.name != "sqlite":
        tx.execute(_LOCK_ATTEMPTS, {"worker": worker_id, "keys": list(keys)}).all()
    rows = tx.execute(_RENEW, {"worker": worker_id, "keys": list(keys), "ttl": ttl.total_seconds()})
    return [Renewal(row.task_id, row.number, row.state, row.attempt, row.stopped) for row in rows]


def beat(tx: Connection, worker_id: str, *, clock: datetime) -> bool:
    """Store a sign of life and the worker's *clock*. Return False when it was declared dead."""
    alive = update(workers).where(w.id == worker_id, w.stopped_at.is_(None))
    return tx.execute(alive.values(heartbeat_at=db_now(), clock_at=clock)).rowcount > 0


def revive(tx: Connection, row: dict[str, Any]) -> None:
    """Mark a worker as live that was declared dead, or even deleted, while it was suspended or cut off.

    Its attempts were rescued one by one and stay fenced; only its row must show that it lives.
    """
    alive = {"stopped_at": None, "heartbeat_at": db_now()}
    tx.execute(insert_into(tx, workers).values(**row).on_conflict_do_update(index_elements=["id"], set_=alive))


def note_progress(tx: Connection, keys: Sequence[tuple[str, int]]) -> None:
    """Record that these attempts have made progress: output, a tool call or usage."""
    tx.execute(
        update(attempts)
        .where(tuple_(a.task_id, a.number).in_(keys), a.finished_at.is_(None))
        .values(progress_at=db_now())
    )


def drain(tx: Connection, worker_id: str) -> None:
    """Mark the worker as draining: it claims no more tasks."""
    tx.execute(update(workers).where(w.id == worker_id).values(draining_at=db_now()))


def stop(tx: Connection, worker_id: str) -> None:
    """Mark the worker as stopped."""
    tx.execute(update(workers).where(w.id == worker_id, w.stopped_at.is_(None)).values(stopped_at=db_now()))


def stop_silent(tx: Connection, *, after: timedelta) -> list[str]:
    """Declare workers dead whose last heartbeat is older than *after*. Return their names.

    Skips workers whose heartbeat is being written.
    """
    silent = select(w.id).where(w.stopped_at.is_(None), w.heartbeat_at < db_after(-after.total_seconds()))
    ids = list(tx.execute(silent.with_for_update(skip_locked=True)).scalars())
    if not ids:
        return []
    statement = update(workers).where(w.id.in_(ids)).values(stopped_at=db_now())
    return list(tx.execute(statement.returning(w.name)).scalars())


def _is_deletable(after: timedelta) -> Any:
    open_attempts = select(a.task_id).where(a.worker_id == w.id, a.finished_at.is_(None))
    return (w.stopped_at < db_after(-after.total_seconds())) & ~exists(open_attempts)


def count_deletable(tx: Connection, *, after: timedelta) -> int:
    """Count the workers that stopped longer than *after* ago and have no open attempts."""
    return tx.execute(select(func.count()).select_from(workers).where(_is_deletable(after))).scalar_one()


def delete_stopped(tx: Connection, *, after: timedelta, limit: int) -> int:
    """Delete at most *limit* of the workers that ``count_deletable`` counts. Return how many."""
    ids = list(tx.execute(select(w.id).where(_is_deletable(after)).order_by(w.id).limit(limit)).scalars())
    return tx.execute(delete(workers).where(w.id.in_(ids))).rowcount if ids else 0


def list_silent(tx: Connection, *, after: timedelta) -> list[RowMapping]:
    """Return up to 20 workers that have not stopped and whose last heartbeat is older than *after*."""
    silent = select(workers).where(w.stopped_at.is_(None), w.heartbeat_at < db_after(-after.total_seconds()))
    return list(tx.execute(silent.order_by(w.heartbeat_at).limit(20)).mappings())


def list_live(tx: Connection, *, within: timedelta) -> list[RowMapping]:
    """Return workers with a heartbeat *within* that time."""
    is_live = w.stopped_at.is_(None), w.heartbeat_at >= db_after(-within.total_seconds())
    return list(tx.execute(select(workers, db_now().label("now")).where(*is_live).order_by(w.started_at)).mappings())


def ids(tx: Connection) -> set[str]:
    """Return the ids of all stored workers."""
    return set(tx.execute(select(w.id)).scalars())


def count_live_slots(tx: Connection, *, within: timedelta) -> int:
    """Return how many jobs the live workers that are not draining can run at the same time."""
    is_live = w.stopped_at.is_(None), w.draining_at.is_(None), w.heartbeat_at >= db_after(-within.total_seconds())
    return tx.execute(select(func.sum(w.slots)).where(*is_live)).scalar() or 0


def count_open_attempts(tx: Connection) -> dict[str, int]:
    """Return the number of open attempts by worker id."""
    rows = tx.execute(select(a.worker_id, func.count()).where(a.finished_at.is_(None)).group_by(a.worker_id))
    return {row[0]: row[1] for row in rows}


def count_unclaimed(tx: Connection, *, after: timedelta) -> int:
    """Count the queued tasks that were enqueued longer than *after* ago and not claimed."""
    is_old = t.enqueued_at.is_not(None), t.enqueued_at < db_after(-after.total_seconds())
    return tx.execute(select(func.count()).where(t.state == "queued", *is_old)).scalar_one()


_COUNT_OVERDUE = (
    select(func.count())
    .select_from(tasks)
    .join(projects, projects.c.id == t.project_id)
    .where(
        t.state == "queued",
        t.enqueued_at.is_not(None),
        t.enqueued_at < db_after(-bindparam("age")),
        projects.c.status.not_in((ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)),
        ~projects.c.stopped,
        # Otherwise it waits for a canceled attempt to end, not for a worker.
        ~exists(select(a.number).where(a.task_id == t.id, a.finished_at.is_(None))),
    )
)


def count_overdue(tx: Connection, *, after: timedelta, workspaces: Sequence[str] | None = None) -> int:
    """Count the queued tasks of *workspaces* that could be claimed and were enqueued longer than *after* ago.

    Unlike ``count_unclaimed``, ignores tasks of paused projects and tasks with an open attempt.
    """
    statement = _COUNT_OVERDUE.where(one_of(t.workspace_id, workspaces))
    return tx.execute(statement, {"age": after.total_seconds()}).scalar_one()


def on_host(tx: Connection, *, host: str, boot_id: str) -> list[tuple[str, int]]:
    """Return (id, pid) of this host's workers that are not marked as stopped."""
    rows = tx.execute(select(w.id, w.pid).where(w.host == host, w.boot_id == boot_id, w.stopped_at.is_(None)))
    return [(row.id, row.pid) for row in rows]


def of_other_kernels(tx: Connection, *, kernel: str) -> list[str]:
    """Return the ids of workers that started under another boot than *kernel* and are not marked as stopped."""
    is_other = w.boot_id != "unknown", w.boot_id.not_like(kernel.replace("%", "") + "/%")
    return list(tx.execute(select(w.id).where(w.stopped_at.is_(None), *is_other)).scalars())


def by_process(tx: Connection, *, host: str, boot_id: str, pid: int) -> list[str]:
    """Return the ids of workers of that process that are not marked as stopped."""
    is_process = w.host == host, w.boot_id == boot_id, w.pid == pid
    return list(tx.execute(select(w.id).where(*is_process, w.stopped_at.is_(None))).scalars())


def has_ended_a_job(tx: Connection, worker_id: str) -> bool:
    """Return whether a job of that worker has ended without a cancellation or a loss."""
    outcomes = (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
    ended = select(a.task_id).where(a.worker_id == worker_id, a.outcome.in_(outcomes))
    return tx.execute(ended.limit(1)).first() is not None


def workspaces_of_worker(tx: Connection, worker_id: str) -> list[str]:
    """Return the workspaces in which a worker has open attempts."""
    statement = select(a.workspace_id).where(a.worker_id == worker_id, a.finished_at.is_(None)).distinct()
    return list(tx.execute(statement.order_by(a.workspace_id)).scalars())


def list_unclaimed(
    tx: Connection, *, enqueued_before: timedelta, limit: int, workspaces: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """Return (workspace, task) of queued, due tasks that were enqueued that long ago and not claimed."""
    rows = tx.execute(
        select(t.workspace_id, t.id)
        .where(
            t.state == TaskState.QUEUED,
            one_of(t.workspace_id, workspaces),
            t.enqueued_at.is_not(None),
            t.enqueued_at < db_after(-enqueued_before.total_seconds()),
            or_(t.not_before.is_(None), t.not_before <= db_now()),
        )
        .order_by(t.enqueued_at)
        .limit(limit)
    )
    return [(row.workspace_id, row.id) for row in rows]


@dataclass(frozen=True, slots=True)
class ExpiredLease:
    """An open attempt whose lease has expired. *silent*: its worker sends no heartbeats either."""

    task_id: str
    number: int
    worker_id: str
    host: str
    boot_id: str
    silent: bool


def list_expired_leases(tx: Connection, project_id: str, *, silent_after: timedelta) -> list[ExpiredLease]:
    """Return the project's open attempts with an expired lease, of stored workers."""
    silent = w.heartbeat_at < db_after(-silent_after.total_seconds())
    rows = tx.execute(
        select(a.task_id, a.number, a.worker_id, w.host, w.boot_id, case((silent, 1), else_=0))
        .join(workers, w.id == a.worker_id)
        .where(a.project_id == project_id, a.finished_at.is_(None), a.lease_until < db_now())
    )
    return [ExpiredLease(*row[:5], silent=bool(row[5])) for row in rows]


def lock(tx: Connection, worker_id: str) -> None:
    """Lock a worker's row, so that one transaction at a time rescues its attempts."""
    tx.execute(select(w.id).where(w.id == worker_id).with_for_update())


def lock_silent(tx: Connection, worker_id: str, *, after: timedelta) -> bool:
    """Lock a worker's row, so that its heartbeat waits. Return whether its last one is older than *after*."""
    silent = select(w.id).where(w.id == worker_id, w.heartbeat_at < db_after(-after.total_seconds()))
    return tx.execute(silent.with_for_update()).first() is not None


# --- the key that signs messages

_KEY_BYTES = 32


def find_broker_key(tx: Connection) -> bytes | None:
    """Return the key of this database, or None before it is created."""
    secret = tx.execute(select(broker_keys.c.secret)).scalar()
    return None if secret is None else bytes.fromhex(secret)


def get_or_create_broker_key(tx: Connection) -> bytes:
    """Return the key of this database. Create it if there is none."""
    row = {"id": 1, "secret": secrets.token_bytes(_KEY_BYTES).hex(), "created_at": db_now()}
    tx.execute(insert_into(tx, broker_keys).values(row).on_conflict_do_nothing(index_elements=["id"]))
    return bytes.fromhex(tx.execute(select(broker_keys.c.secret)).scalar_one())


def replace_broker_key(tx: Connection) -> None:
    """Replace the key; signatures of the old one are invalid from then on."""
    tx.execute(delete(broker_keys))
    get_or_create_broker_key(tx)


# --- workers and workspaces


def list_live_for(tx: Connection, workspace_id: str, *, within: timedelta) -> list[RowMapping]:
    """Return the live workers of this workspace that are not draining."""
    name = workspace_name(tx, workspace_id)
    return [
        row
        for row in list_live(tx, within=within)
        if row["draining_at"] is None and (row["serves"] is None or name in row["serves"])
    ]


def workspace_name(tx: Connection, workspace_id: str) -> str:
    """Return the name of a workspace."""
    return str(tx.execute(select(workspaces.c.name).where(workspaces.c.id == workspace_id)).scalar())


def list_running_on(tx: Connection, worker_ids: Sequence[str]) -> list[RowMapping]:
    """Return what runs on these workers: task_id, number, key, run_id, project, started_at, and the database's now."""
    project, now = projects.c.name.label("project"), db_now().label("now")
    statement = (
        select(a.task_id, a.number, t.key, t.run_id, project, a.started_at, now)
        .join(tasks, t.id == a.task_id)
        .join(projects, projects.c.id == t.project_id)
        .where(a.worker_id.in_(worker_ids), a.finished_at.is_(None))
        .order_by(a.started_at)
    )
    return list(tx.execute(statement).mappings())
