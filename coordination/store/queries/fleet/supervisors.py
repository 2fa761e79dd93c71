"""Statements on supervisors: one row per project, and the lease that keeps two ticks apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, or_, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.domain.fleet.supervisor_status import Supervisor
from coordination.store.queries import one_of
from coordination.store.tables.fleet.workers import supervisors
from coordination.store.types import db_after, db_now

s = supervisors.c


def ensure(tx: Connection, workspace_id: str, project_id: str, *, session_key: str, lifetime: timedelta) -> None:
    """Start the project's supervisor if it has none, wake it under the new session key if it has ended."""
    values = {
        "project": project_id,
        "ws": workspace_id,
        "key": session_key,
        "lifetime": lifetime.total_seconds(),
        "nothing": {},
    }
    tx.execute(_ENSURE[tx.dialect.name], values)


def _ensure(make: Any) -> Any:
    statement = make(supervisors).values(
        project_id=bindparam("project"),
        workspace_id=bindparam("ws"),
        state=bindparam("nothing", type_=s.state.type),
        submissions=1,
        session_key=bindparam("key"),
        started_at=db_now(),
        heartbeat_at=db_now(),
        expires_at=db_after(bindparam("lifetime")),
        error=None,
    )
    ended = s.ended_at.is_not(None)
    kept = {
        name: case((ended, statement.excluded[name]), else_=supervisors.c[name])
        for name in ("session_key", "started_at", "heartbeat_at", "expires_at", "error")
    }
    return statement.on_conflict_do_update(
        index_elements=["project_id"],
        set_={**kept, "ended_at": None, "submissions": s.submissions + 1},
        where=s.workspace_id == bindparam("ws"),
    )


_ENSURE = {
    "postgresql": _ensure(pg_insert),
    "sqlite": _ensure(sqlite_insert),
}  # made once: that costs more than they do


RESTS = or_(s.tick_until.is_(None), s.tick_until < db_now())
"""Nobody ticks it now."""


@dataclass(frozen=True, slots=True)
class TickStart:
    """A tick whose lease was taken; *submissions*: as many as there had been by then."""

    workspace_id: str
    project_id: str
    holder: str
    lease: timedelta
    submissions: int


def due_since(every: timedelta) -> ColumnElement[bool]:
    """Alive, not ticked for that long, and nobody ticks it now."""
    return and_(s.ended_at.is_(None), s.heartbeat_at < db_after(-every.total_seconds()), RESTS)


def due(tx: Connection, *, every: timedelta, workspaces: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """(workspace, project) of live supervisors that have not ticked for that long and are not ticking now.

    *workspaces*: only of these.
    """
    wanted = (due_since(every), one_of(s.workspace_id, workspaces))
    rows = tx.execute(select(s.workspace_id, s.project_id).where(*wanted).order_by(s.heartbeat_at).limit(1000))
    return [(row.workspace_id, row.project_id) for row in rows]


def begin_tick(
    tx: Connection, workspace_id: str, project_id: str, *, holder: str, lease: timedelta, every: timedelta | None = None
) -> TickStart | None:
    """Take the tick's lease; None when somebody else ticks this project now or it has no live supervisor.

    *every*: None as well when it was ticked less than that ago, since it was read that it is due.
    """
    wanted = and_(s.ended_at.is_(None), RESTS) if every is None else due_since(every)
    return _begin(tx, (s.workspace_id == workspace_id, s.project_id == project_id, wanted), holder=holder, lease=lease)


def begin_due_tick(
    tx: Connection, *, every: timedelta, holder: str, lease: timedelta, workspaces: Sequence[str] | None = None
) -> TickStart | None:
    """Take the tick's lease of the project that has waited longest, of any or of these workspaces; None: none is due.

    One statement, and on PostgreSQL it skips what others are about to take: any number of processes share what is due
    among them, and none ticks what another has just ticked.
    """
    wanted = (due_since(every), one_of(s.workspace_id, workspaces))
    longest = select(s.project_id).where(*wanted).order_by(s.heartbeat_at).limit(1)
    longest = longest.with_for_update(skip_locked=True)
    return _begin(tx, [s.project_id == longest.scalar_subquery()], holder=holder, lease=lease)


def _begin(tx: Connection, wanted: Iterable[ColumnElement[bool]], *, holder: str, lease: timedelta) -> TickStart | None:
    row = tx.execute(
        update(supervisors)
        .where(*wanted)
        .values(tick_owner=holder, tick_until=db_after(lease.total_seconds()))
        .returning(s.workspace_id, s.project_id, s.submissions)
    ).first()
    return None if row is None else TickStart(row.workspace_id, row.project_id, holder, lease, row.submissions)


_HELD = (s.workspace_id == bindparam("ws"), s.project_id == bindparam("project"), s.tick_owner == bindparam("holder"))


def go_on(tx: Connection, workspace_id: str, project_id: str, *, holder: str, lease: timedelta) -> bool:
    """Renew the tick's lease; False when somebody else has it by now."""
    done = tx.execute(
        update(supervisors)
        .where(s.workspace_id == workspace_id, s.project_id == project_id, s.tick_owner == holder)
        .values(tick_until=db_after(lease.total_seconds()))
    )
    return done.rowcount > 0


def end_tick(
    tx: Connection, workspace_id: str, project_id: str, *, holder: str, state: dict[str, Any], lifetime: timedelta
) -> bool:
    """Write heartbeat and state, renew the lifetime, give the tick's lease back; False when it was lost."""
    return (
        tx.execute(
            update(supervisors)
            .where(*_HELD)
            .values(
                heartbeat_at=db_now(),
                expires_at=db_after(lifetime.total_seconds()),
                state=bindparam("new_state", type_=s.state.type),
                error=None,
                tick_owner=None,
                tick_until=None,
            ),
            {"ws": workspace_id, "project": project_id, "holder": holder, "new_state": state},
        ).rowcount
        > 0
    )


def end(
    tx: Connection, workspace_id: str, project_id: str, *, holder: str, state: dict[str, Any], submissions: int
) -> bool:
    """The project's work has ended: so does its supervisor.

    False when the tick's lease was lost, or work was submitted since the tick began (*submissions* is what it saw).
    """
    return (
        tx.execute(
            update(supervisors)
            .where(*_HELD, s.submissions == submissions)
            .values(
                heartbeat_at=db_now(),
                ended_at=db_now(),
                state=bindparam("new_state", type_=s.state.type),
                error=None,
                tick_owner=None,
                tick_until=None,
            ),
            {"ws": workspace_id, "project": project_id, "holder": holder, "new_state": state},
        ).rowcount
        > 0
    )


def note_error(tx: Connection, workspace_id: str, project_id: str, *, holder: str, error: str, rest: timedelta) -> None:
    """A tick failed: the error is kept on the row and shown. The heartbeat is not renewed.

    The lease is given back only after *rest*: a project that fails each time would be the longest due for ever, and
    no other would have its turn.
    """
    tx.execute(
        update(supervisors)
        .where(s.workspace_id == workspace_id, s.project_id == project_id, s.tick_owner == holder)
        .values(error=error[:2000], tick_owner=None, tick_until=db_after(rest.total_seconds()))
    )


def get(tx: Connection, workspace_id: str, project_id: str) -> Supervisor | None:
    """The project's supervisor with the age of its heartbeat by the database's clock, or None."""
    row = (
        tx.execute(
            select(supervisors, db_now().label("now")).where(s.workspace_id == workspace_id, s.project_id == project_id)
        )
        .mappings()
        .first()
    )
    if row is None:
        return None
    return Supervisor(
        project_id=row["project_id"],
        workspace_id=row["workspace_id"],
        session_key=row["session_key"],
        started_at=row["started_at"],
        heartbeat_at=row["heartbeat_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
        state=row["state"],
        error=row["error"],
        age=row["now"] - row["heartbeat_at"],
    )
