"""Statements above workspaces: what a worker process does for everything it runs, and which projects are due.

These are the only queries without a workspace: a worker serves all of them, and sees here nothing but ids and times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, or_, select, tuple_, update

from coordination.store.tables.attempts import attempts
from coordination.store.tables.fleet import supervisors, workers
from coordination.store.tables.tasks import tasks
from coordination.store.types import db_after, db_now

w, a, t, s = workers.c, attempts.c, tasks.c, supervisors.c


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a heartbeat learnt about one attempt: still ours, or the task is in another state or attempt."""

    task_id: str
    number: int
    state: str
    attempt: int


def register(tx: Connection, row: dict[str, Any]) -> None:
    """A worker process begins its life."""
    tx.execute(insert(workers).values(**row))


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
    )
)


def renew(tx: Connection, worker_id: str, held: Sequence[tuple[str, int]], *, ttl: timedelta) -> list[Renewal]:
    """Renew the leases of all attempts a worker holds, in one statement, and learn what became of their tasks.

    An attempt that is missing from the answer was taken away.
    """
    rows = tx.execute(_RENEW, {"worker": worker_id, "held": list(held), "ttl": ttl.total_seconds()})
    return [Renewal(row.task_id, row.number, row.state, row.attempt) for row in rows]


def beat(tx: Connection, worker_id: str) -> bool:
    """The worker lives; False when it has been declared dead."""
    return (
        tx.execute(
            update(workers).where(w.id == worker_id, w.stopped_at.is_(None)).values(heartbeat_at=db_now())
        ).rowcount
        > 0
    )


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
    """Declare workers dead that have not been heard of; their names."""
    return list(
        tx.execute(
            update(workers)
            .where(w.stopped_at.is_(None), w.heartbeat_at < db_after(-after.total_seconds()))
            .values(stopped_at=db_now())
            .returning(w.name)
        ).scalars()
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
            t.state == "queued", t.rung_at.is_not(None), t.rung_at < db_after(-after.total_seconds())
        )
    ).scalar_one()


def on_host(tx: Connection, *, host: str, boot_id: str) -> list[tuple[str, int]]:
    """(id, pid) of this host's workers whose end nobody has written."""
    rows = tx.execute(select(w.id, w.pid).where(w.host == host, w.boot_id == boot_id, w.stopped_at.is_(None)))
    return [(row.id, row.pid) for row in rows]


def by_process(tx: Connection, *, host: str, boot_id: str, pid: int) -> list[str]:
    """Ids of workers that were that process and have not been stopped."""
    return list(
        tx.execute(
            select(w.id).where(w.host == host, w.boot_id == boot_id, w.pid == pid, w.stopped_at.is_(None))
        ).scalars()
    )


def workspaces_of_worker(tx: Connection, worker_id: str) -> list[str]:
    """The workspaces in which a worker holds open attempts."""
    return list(
        tx.execute(select(a.workspace_id).where(a.worker_id == worker_id, a.finished_at.is_(None)).distinct()).scalars()
    )


def due_supervisors(tx: Connection, *, every: timedelta) -> list[tuple[str, str]]:
    """(workspace, project) of live supervisors that have not ticked for that long and are not ticking now."""
    rows = tx.execute(
        select(s.workspace_id, s.project_id)
        .where(
            s.ended_at.is_(None),
            s.heartbeat_at < db_after(-every.total_seconds()),
            or_(s.tick_until.is_(None), s.tick_until < db_now()),
        )
        .order_by(s.heartbeat_at)
        .limit(1000)
    )
    return [(row.workspace_id, row.project_id) for row in rows]


def expired_on_host(tx: Connection, project_id: str, *, host: str, boot_id: str) -> list[tuple[str, int]]:
    """(task, number) of the project's open attempts that ran on this host and whose lease has run out."""
    rows = tx.execute(
        select(a.task_id, a.number)
        .join(workers, w.id == a.worker_id)
        .where(
            a.project_id == project_id,
            a.finished_at.is_(None),
            a.lease_until < db_now(),
            w.host == host,
            w.boot_id == boot_id,
        )
    )
    return [(row.task_id, row.number) for row in rows]
