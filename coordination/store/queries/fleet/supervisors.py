"""Statements on supervisors: one row per project, with a lease that prevents concurrent ticks."""

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
    """Start the project's supervisor if it has none, or restart one that has ended under the new session key."""
    values = {"project": project_id, "ws": workspace_id, "key": session_key, "no_state": {}}
    tx.execute(_ENSURE[tx.dialect.name], {**values, "lifetime": lifetime.total_seconds()})


def _ensure(insert_into: Any) -> Any:
    statement = insert_into(supervisors).values(
        project_id=bindparam("project"),
        workspace_id=bindparam("ws"),
        state=bindparam("no_state", type_=s.state.type),
        submissions=1,
        session_key=bindparam("key"),
        started_at=db_now(),
        heartbeat_at=db_now(),
        expires_at=db_after(bindparam("lifetime")),
        error=None,
    )
    ended = s.ended_at.is_not(None)
    values_kept_while_live = {
        name: case((ended, statement.excluded[name]), else_=supervisors.c[name])
        for name in ("session_key", "started_at", "heartbeat_at", "expires_at", "error")
    }
    return statement.on_conflict_do_update(
        index_elements=["project_id"],
        set_={**values_kept_while_live, "ended_at": None, "submissions": s.submissions + 1},
        where=s.workspace_id == bindparam("ws"),
    )


# Built once, because building them costs more than executing them.
_ENSURE = {"postgresql": _ensure(pg_insert), "sqlite": _ensure(sqlite_insert)}


IS_NOT_TICKING = or_(s.tick_until.is_(None), s.tick_until < db_now())
"""Whether no tick of the supervisor is running."""


@dataclass(frozen=True, slots=True)
class TickStart:
    """A tick that has its lease. *submissions*: the project's count of submissions when it began."""

    workspace_id: str
    project_id: str
    owner: str
    lease: timedelta
    submissions: int


def is_overdue(every: timedelta) -> ColumnElement[bool]:
    """Return whether a live supervisor has not ticked for *every* and is not ticking."""
    return and_(s.ended_at.is_(None), s.heartbeat_at < db_after(-every.total_seconds()), IS_NOT_TICKING)


def list_due(tx: Connection, *, every: timedelta, workspaces: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return (workspace, project) of live supervisors, of these *workspaces*, that are due."""
    is_due = (is_overdue(every), one_of(s.workspace_id, workspaces))
    rows = tx.execute(select(s.workspace_id, s.project_id).where(*is_due).order_by(s.heartbeat_at).limit(1000))
    return [(row.workspace_id, row.project_id) for row in rows]


def begin_tick(
    tx: Connection, workspace_id: str, project_id: str, *, owner: str, lease: timedelta, every: timedelta | None = None
) -> TickStart | None:
    """Take the tick's lease. Return None when the project is ticking already or has no live supervisor.

    *every*: return None also when the last tick is less than that ago.
    """
    is_free = and_(s.ended_at.is_(None), IS_NOT_TICKING) if every is None else is_overdue(every)
    return _begin(tx, (s.workspace_id == workspace_id, s.project_id == project_id, is_free), owner=owner, lease=lease)


def begin_due_tick(
    tx: Connection, *, every: timedelta, owner: str, lease: timedelta, workspaces: Sequence[str] | None = None
) -> TickStart | None:
    """Take the tick's lease of the project that is overdue longest, or return None when none is due.

    One statement that skips locked rows on PostgreSQL: any number of processes share the due projects, and none ticks
    what another one has just ticked.
    """
    is_due = (is_overdue(every), one_of(s.workspace_id, workspaces))
    longest = select(s.project_id).where(*is_due).order_by(s.heartbeat_at).limit(1)
    longest = longest.with_for_update(skip_locked=True)
    return _begin(tx, [s.project_id == longest.scalar_subquery()], owner=owner, lease=lease)


def _begin(
    tx: Connection, conditions: Iterable[ColumnElement[bool]], *, owner: str, lease: timedelta
) -> TickStart | None:
    row = tx.execute(
        update(supervisors)
        .where(*conditions)
        .values(tick_owner=owner, tick_until=db_after(lease.total_seconds()))
        .returning(s.workspace_id, s.project_id, s.submissions)
    ).first()
    return None if row is None else TickStart(row.workspace_id, row.project_id, owner, lease, row.submissions)


_IS_OWNED = (
    s.workspace_id == bindparam("ws"),
    s.project_id == bindparam("project"),
    s.tick_owner == bindparam("owner"),
)
TICK_END = {
    "heartbeat_at": db_now(),
    "state": bindparam("new_state", type_=s.state.type),
    "error": None,
    "tick_owner": None,
    "tick_until": None,
}
"""The values that the end of every successful tick sets."""


def renew_tick(tx: Connection, workspace_id: str, project_id: str, *, owner: str, lease: timedelta) -> bool:
    """Renew the tick's lease. Return False when it was lost."""
    is_owned = s.workspace_id == workspace_id, s.project_id == project_id, s.tick_owner == owner
    statement = update(supervisors).where(*is_owned).values(tick_until=db_after(lease.total_seconds()))
    return tx.execute(statement).rowcount > 0


def end_tick(
    tx: Connection, workspace_id: str, project_id: str, *, owner: str, state: dict[str, Any], lifetime: timedelta
) -> bool:
    """Write heartbeat and state, renew the lifetime, and release the tick's lease. Return False when it was lost."""
    statement = update(supervisors).where(*_IS_OWNED)
    statement = statement.values(**TICK_END, expires_at=db_after(lifetime.total_seconds()))
    values = {"ws": workspace_id, "project": project_id, "owner": owner, "new_state": state}
    return tx.execute(statement, values).rowcount > 0


def end(
    tx: Connection, workspace_id: str, project_id: str, *, owner: str, state: dict[str, Any], submissions: int
) -> bool:
    """End the supervisor of a project without open work.

    Return False when the tick's lease was lost, or work was submitted since the tick began with *submissions*.
    """
    statement = update(supervisors).where(*_IS_OWNED, s.submissions == submissions)
    values = {"ws": workspace_id, "project": project_id, "owner": owner, "new_state": state}
    return tx.execute(statement.values(**TICK_END, ended_at=db_now()), values).rowcount > 0


def note_error(tx: Connection, workspace_id: str, project_id: str, *, owner: str, error: str, rest: timedelta) -> None:
    """Store and show the error of a failed tick, without renewing the heartbeat.

    The lease stays for *rest*: otherwise a project that always fails would always be the most overdue, and starve
    others.
    """
    tx.execute(
        update(supervisors)
        .where(s.workspace_id == workspace_id, s.project_id == project_id, s.tick_owner == owner)
        .values(error=error[:2000], tick_owner=None, tick_until=db_after(rest.total_seconds()))
    )


def get(tx: Connection, workspace_id: str, project_id: str) -> Supervisor | None:
    """Return the project's supervisor with the age of its heartbeat by the database's clock, or None."""
    statement = select(supervisors, db_now().label("now"))
    row = tx.execute(statement.where(s.workspace_id == workspace_id, s.project_id == project_id)).mappings().first()
    if row is None:
        return None
    columns = {name: row[name] for name in Supervisor.__slots__ if name != "age"}
    return Supervisor(**columns, age=row["now"] - row["heartbeat_at"])
