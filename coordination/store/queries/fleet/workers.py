"""Statements above workspaces: what a worker process does for everything it runs, and which projects are due.

These are the only queries without a workspace: a worker may serve several, and sees here nothing but ids and times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import TaskState
from coordination.store.queries import one_of
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
    """What a heartbeat learnt about one attempt: still ours, or the task is in another state or attempt.

    ``stopped``: a stop holds its project: 1 without a grace, else 0. None: none does.
    """

    task_id: str
    number: int
    state: str
    attempt: int
    stopped: int | None = None


def clock(tx: Connection) -> datetime:
    """What the database's clock says now: at the begin of the transaction."""
    return tx.execute(select(db_now())).scalar_one()


def transaction(tx: Connection) -> int:
    """The number of this transaction, by which ``is_committed`` knows it; 0 on SQLite, where no answer gets lost."""
    return int(tx.execute(select(commit_order())).scalar_one())


_STATUS = text("SELECT pg_xact_status(CAST(CAST(:number AS text) AS xid8))")


def is_committed(tx: Connection, number: int) -> bool | None:
    """Whether the transaction of that number was committed; None while it goes on. On PostgreSQL only."""
    status = tx.execute(_STATUS, {"number": str(number)}).scalar()
    return None if status == "in progress" else status == "committed"


def register(tx: Connection, row: dict[str, Any]) -> None:
    """A worker process begins its life."""
    tx.execute(insert(workers).values(**row))


# In the order in which ends lock them.
_HELD = (
    select(a.task_id, a.number)
    .where(
        a.worker_id == bindparam("worker"),
        a.finished_at.is_(None),
        tuple_(a.task_id, a.number).in_(bindparam("held", expanding=True)),
    )
    .order_by(a.task_id, a.number)
    .with_for_update()
)
_RENEW = (
    update(attempts)
    .where(
        a.worker_id == bindparam("worker"),
        a.finished_at.is_(None),
        tuple_(a.task_id, a.number).in_(bindparam("held", expanding=True)),
    )
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


def renew(tx: Connection, worker_id: str, held: Sequence[tuple[str, int]], *, ttl: timedelta) -> list[Renewal]:
    """Renew the leases of all attempts a worker holds at once, and learn what became of their tasks.

    An attempt that is missing from the answer was taken away.
    """
    if tx.dialect.name != "sqlite":
        tx.execute(_HELD, {"worker": worker_id, "held": list(held)}).all()
    rows = tx.execute(_RENEW, {"worker": worker_id, "held": list(held), "ttl": ttl.total_seconds()})
    return [Renewal(row.task_id, row.number, row.state, row.attempt, row.stopped) for row in rows]


def beat(tx: Connection, worker_id: str, *, clock: datetime) -> bool:
    """The worker lives, and this is what its own clock says; False when it has been declared dead."""
    alive = update(workers).where(w.id == worker_id, w.stopped_at.is_(None))
    return tx.execute(alive.values(heartbeat_at=db_now(), clock_at=clock)).rowcount > 0


def revive(tx: Connection, row: dict[str, Any]) -> None:
    """A worker that was declared dead, or even forgotten, lives: it was stopped, cut off, or its machine asleep.

    What it held was taken away attempt by attempt, and each fence holds; its row must not go on saying that it is dead.
    """
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    again = make(workers).values(**row)
    tx.execute(again.on_conflict_do_update(index_elements=["id"], set_={"stopped_at": None, "heartbeat_at": db_now()}))


def note_progress(tx: Connection, held: Sequence[tuple[str, int]]) -> None:
    """These attempts moved since the last time: output, a tool call, usage."""
    tx.execute(
        update(attempts)
        .where(tuple_(a.task_id, a.number).in_(held), a.finished_at.is_(None))
        .values(progress_at=db_now())
    )


def drain(tx: Connection, worker_id: str) -> None:
    """The worker takes nothing more."""
    tx.execute(update(workers).where(w.id == worker_id).values(draining_at=db_now()))


def stop(tx: Connection, worker_id: str) -> None:
    """The worker's life has ended."""
    tx.execute(update(workers).where(w.id == worker_id, w.stopped_at.is_(None)).values(stopped_at=db_now()))


def stop_silent(tx: Connection, *, after: timedelta) -> list[str]:
    """Declare workers dead that have not been heard of; their names. Who is just being heard of is left out."""
    unheard = select(w.id).where(w.stopped_at.is_(None), w.heartbeat_at < db_after(-after.total_seconds()))
    ids = list(tx.execute(unheard.with_for_update(skip_locked=True)).scalars())
    if not ids:
        return []
    return list(
        tx.execute(update(workers).where(w.id.in_(ids)).values(stopped_at=db_now()).returning(w.name)).scalars()
    )


def _forgettable(after: timedelta) -> Any:
    busy = select(a.task_id).where(a.worker_id == w.id, a.finished_at.is_(None))
    return and_(w.stopped_at < db_after(-after.total_seconds()), ~exists(busy))


def count_forgettable(tx: Connection, *, after: timedelta) -> int:
    """How many workers stopped longer than that ago and hold nothing any more."""
    return tx.execute(select(func.count()).select_from(workers).where(_forgettable(after))).scalar_one()


def forget_stopped(tx: Connection, *, after: timedelta, limit: int) -> int:
    """Delete some workers that stopped longer than that ago and hold nothing any more; how many."""
    old = select(w.id).where(_forgettable(after)).order_by(w.id).limit(limit)
    ids = list(tx.execute(old).scalars())
    return tx.execute(delete(workers).where(w.id.in_(ids))).rowcount if ids else 0


def workspaces_known(tx: Connection) -> list[str]:
    """All workspaces."""
    return list(tx.execute(select(workspaces.c.id).order_by(workspaces.c.id)).scalars())


def silent(tx: Connection, *, after: timedelta, limit: int = 20) -> list[RowMapping]:
    """Workers that have not said that they stop, and that were not heard of for that long."""
    return list(
        tx.execute(
            select(workers)
            .where(w.stopped_at.is_(None), w.heartbeat_at < db_after(-after.total_seconds()))
            .order_by(w.heartbeat_at)
            .limit(limit)
        ).mappings()
    )


def live(tx: Connection, *, within: timedelta) -> list[RowMapping]:
    """Workers heard of within that time."""
    return list(
        tx.execute(
            select(workers, db_now().label("now"))
            .where(w.stopped_at.is_(None), w.heartbeat_at >= db_after(-within.total_seconds()))
            .order_by(w.started_at)
        ).mappings()
    )


def ids(tx: Connection) -> set[str]:
    """The ids of all workers that are remembered."""
    return set(tx.execute(select(w.id)).scalars())


def live_slots(tx: Connection, *, within: timedelta) -> int:
    """How many jobs the living, not draining workers can run at once."""
    return (
        tx.execute(
            select(func.sum(w.slots)).where(
                w.stopped_at.is_(None), w.draining_at.is_(None), w.heartbeat_at >= db_after(-within.total_seconds())
            )
        ).scalar()
        or 0
    )


def busy(tx: Connection) -> dict[str, int]:
    """How many attempts each worker holds open, by its id."""
    rows = tx.execute(select(a.worker_id, func.count()).where(a.finished_at.is_(None)).group_by(a.worker_id))
    return {row[0]: row[1] for row in rows}


def unanswered(tx: Connection, *, after: timedelta) -> int:
    """How many queued tasks had their doorbell rung longer than that ago, and nobody came."""
    return tx.execute(
        select(func.count()).where(
            t.state == "queued", t.enqueued_at.is_not(None), t.enqueued_at < db_after(-after.total_seconds())
        )
    ).scalar_one()


_UNHEARD = (
    select(func.count())
    .select_from(tasks)
    .join(projects, projects.c.id == t.project_id)
    .where(
        t.state == "queued",
        t.enqueued_at.is_not(None),
        t.enqueued_at < db_after(-bindparam("age")),
        projects.c.status.not_in((ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)),
        ~projects.c.stopped,
        # It waits for a canceled attempt to end, not for a worker.
        ~exists(select(a.number).where(a.task_id == t.id, a.finished_at.is_(None))),
    )
)


def unheard(tx: Connection, *, after: timedelta, workspaces: Sequence[str] | None = None) -> int:
    """The same, without those that no worker may take now: their project is on hold, or an attempt has not ended.

    *workspaces*: only of these.
    """
    return tx.execute(_UNHEARD.where(one_of(t.workspace_id, workspaces)), {"age": after.total_seconds()}).scalar_one()


def on_host(tx: Connection, *, host: str, boot_id: str) -> list[tuple[str, int]]:
    """(id, pid) of this host's workers whose end nobody has written."""
    rows = tx.execute(select(w.id, w.pid).where(w.host == host, w.boot_id == boot_id, w.stopped_at.is_(None)))
    return [(row.id, row.pid) for row in rows]


def of_other_kernels(tx: Connection, *, kernel: str) -> list[str]:
    """Ids of workers that began under another boot of a kernel than *kernel*, and whose end nobody has written."""
    known = w.boot_id != "unknown"
    return list(
        tx.execute(
            select(w.id).where(w.stopped_at.is_(None), known, w.boot_id.not_like(kernel.replace("%", "") + "/%"))
        ).scalars()
    )


def by_process(tx: Connection, *, host: str, boot_id: str, pid: int) -> list[str]:
    """Ids of workers that were that process and have not been stopped."""
    return list(
        tx.execute(
            select(w.id).where(w.host == host, w.boot_id == boot_id, w.pid == pid, w.stopped_at.is_(None))
        ).scalars()
    )


def has_ended_a_job(tx: Connection, worker_id: str) -> bool:
    """Whether an attempt of that worker came to an end of its own, good or bad."""
    own = (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
    return (
        tx.execute(select(a.task_id).where(a.worker_id == worker_id, a.outcome.in_(own)).limit(1)).first() is not None
    )


def workspaces_of_worker(tx: Connection, worker_id: str) -> list[str]:
    """The workspaces in which a worker holds open attempts."""
    return list(
        tx.execute(
            select(a.workspace_id)
            .where(a.worker_id == worker_id, a.finished_at.is_(None))
            .distinct()
            .order_by(a.workspace_id)
        ).scalars()
    )


def parked(
    tx: Connection, *, enqueued_before: timedelta, limit: int, workspaces: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """(workspace, task) of queued, due tasks whose doorbell went out that long ago and that nobody claimed.

    *workspaces*: only of these.
    """
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
    """An open attempt whose lease has run out; *silent*: nothing was heard of its worker either."""

    task_id: str
    number: int
    worker_id: str
    host: str
    boot_id: str
    silent: bool


def expired(tx: Connection, project_id: str, *, silent_after: timedelta) -> list[ExpiredLease]:
    """The project's open attempts whose lease has run out, of workers that are known."""
    silent = w.heartbeat_at < db_after(-silent_after.total_seconds())
    rows = tx.execute(
        select(a.task_id, a.number, a.worker_id, w.host, w.boot_id, case((silent, 1), else_=0))
        .join(workers, w.id == a.worker_id)
        .where(a.project_id == project_id, a.finished_at.is_(None), a.lease_until < db_now())
    )
    return [ExpiredLease(*row[:5], silent=bool(row[5])) for row in rows]


def lock(tx: Connection, worker_id: str) -> None:
    """Lock a worker's row: one transaction at a time rescues what it held."""
    tx.execute(select(w.id).where(w.id == worker_id).with_for_update())


def lock_silent(tx: Connection, worker_id: str, *, after: timedelta) -> bool:
    """Lock a worker's row, so that its heartbeat waits; whether nothing was heard of it for that long."""
    silent = select(w.id).where(w.id == worker_id, w.heartbeat_at < db_after(-after.total_seconds()))
    return tx.execute(silent.with_for_update()).first() is not None
