"""Statements on stops, the projects that they cover, and the attempts in them.

A stop marks its projects as stopped, and claims read the mark without a lock: the stop waits afterwards for the
transactions that may have begun to claim before (``claiming_transactions``).

Creating a project takes a shared lock on the workspace's row first, stopping and starting an exclusive one. So no
project is created while a stop begins.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, delete, func, insert, or_, select, text, tuple_, update

from coordination.base.ids import new_id
from coordination.base.money import ZERO
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.projects.stops import Stop, StoppedAttempt
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import TaskState
from coordination.store.queries.access.principals import id_of, text_of
from coordination.store.queries.tasks.tasks import BATCH
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.money.costs import costs
from coordination.store.tables.projects.projects import projects, workspaces
from coordination.store.tables.projects.stops import stops
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after, db_now

s, p, a, t, w, c = stops.c, projects.c, attempts.c, tasks.c, workers.c, costs.c


def lock_workspace(tx: Connection, workspace_id: str, *, shared: bool = False) -> None:
    """Lock the workspace's row against stops and starts; *shared*: allow other shared locks."""
    row = select(workspaces.c.id).where(workspaces.c.id == workspace_id)
    tx.execute(row.with_for_update(read=shared, key_share=not shared))


_STOPS = select(
    s.id,
    s.project_id,
    select(p.name).where(p.id == s.project_id).scalar_subquery().label("project"),
    s.since,
    text_of(s.created_by).label("actor"),
    s.reason,
    s.at_once,
    s.in_flight,
).where(s.ended_at.is_(None))


def list_active(tx: Connection, workspace_id: str) -> list[Stop]:
    """Return the active stops: the workspace's first, then those of projects by age."""
    rows = tx.execute(
        _STOPS.where(s.workspace_id == workspace_id).order_by(case((s.project_id.is_(None), 0), else_=1), s.since)
    )
    return [_stop(row) for row in rows.mappings()]


def _stop(row: Any) -> Stop:
    in_flight = (
        None if row["in_flight"] is None else tuple((task_id, number) for task_id, number, *_ in row["in_flight"])
    )
    return Stop(**{**row, "in_flight": in_flight})


def find_covering(tx: Connection, workspace_id: str, project_id: str | None = None) -> Stop | None:
    """Return the stop of the whole workspace, else the project's own, or None."""
    return next((stop for stop in list_active(tx, workspace_id) if stop.project_id in (None, project_id)), None)


def find(tx: Connection, workspace_id: str, project_id: str | None) -> Stop | None:
    """Return the stop of exactly this project, or (None) of the whole workspace."""
    return next((stop for stop in list_active(tx, workspace_id) if stop.project_id == project_id), None)


def add(
    tx: Connection, workspace_id: str, project_id: str | None, *, actor: str, reason: str | None, at_once: bool
) -> str:
    """Begin a stop of a project, or of the whole workspace, and return its id."""
    stop_id, created_by = new_id(), id_of(tx, workspace_id, actor)
    key = {"id": stop_id, "workspace_id": workspace_id, "project_id": project_id}
    tx.execute(insert(stops).values(**key, created_by=created_by, reason=reason, at_once=at_once))
    return stop_id


def set_columns(tx: Connection, workspace_id: str, stop_id: str, **values: Any) -> None:
    """Set columns of an active stop: at_once, in_flight."""
    tx.execute(
        update(stops).where(s.workspace_id == workspace_id, s.id == stop_id, s.ended_at.is_(None)).values(**values)
    )


def end(tx: Connection, workspace_id: str, stop_id: str, *, actor: str) -> bool:
    """End a stop. Return whether it was active."""
    ended = update(stops).where(s.workspace_id == workspace_id, s.id == stop_id, s.ended_at.is_(None))
    return tx.execute(ended.values(ended_at=db_now(), ended_by=id_of(tx, workspace_id, actor))).rowcount > 0


def _covers() -> ColumnElement[bool]:
    """Return whether an active stop covers a project."""
    covering = select(1).select_from(stops).where(s.workspace_id == p.workspace_id, s.ended_at.is_(None))
    return covering.where(or_(s.project_id.is_(None), s.project_id == p.id)).correlate(projects).exists()


def mark_projects(tx: Connection, workspace_id: str, project_id: str | None = None) -> int:
    """Mark every project, or that one, that a stop covers and that is not marked. Return how many.

    Two statements, because the second one sees what was committed before the rows were locked.
    """
    statement = select(p.id).where(
        p.workspace_id == workspace_id, p.status != ProjectStatus.ARCHIVED, ~p.stopped, _covers()
    )
    if project_id is not None:
        statement = statement.where(p.id == project_id)
    ids = list(tx.execute(statement.order_by(p.id).with_for_update(key_share=True)).scalars())
    marked = 0
    for start in range(0, len(ids), BATCH):
        marked += tx.execute(
            update(projects)
            .where(p.id.in_(ids[start : start + BATCH]), p.status != ProjectStatus.ARCHIVED, _covers())
            .values(stopped=True)
        ).rowcount
    return marked


def unmark_projects(tx: Connection, workspace_id: str, project_id: str | None = None) -> list[str]:
    """Unmark every project, or that one, that no stop covers any more. Return the ids of those that may continue.

    A project that is paused stays paused.
    """
    statement = select(p.id).where(p.workspace_id == workspace_id, p.stopped)
    if project_id is not None:
        statement = statement.where(p.id == project_id)
    ids = list(tx.execute(statement.order_by(p.id).with_for_update(key_share=True)).scalars())
    resumed: list[str] = []
    for start in range(0, len(ids), BATCH):
        rows = tx.execute(
            update(projects)
            .where(p.id.in_(ids[start : start + BATCH]), ~_covers())
            .values(stopped=False)
            .returning(p.id, p.status)
        )
        resumed += [row.id for row in rows if row.status not in (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)]
    return sorted(resumed)


# PostgreSQL locks all tables of a claim's statement before it reads the stopped marks. A claim that locks them after
# the stop was committed sees it.
_CLAIMING = text(
    "SELECT DISTINCT virtualtransaction FROM pg_locks"
    " WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid()"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (relation = CAST('attempts' AS regclass) AND mode = 'RowExclusiveLock'"
    " OR relation = CAST('tasks' AS regclass) AND mode = 'RowShareLock')"
)


def claiming_transactions(tx: Connection) -> set[str]:
    """Return the transactions that may have begun to claim before this moment; none on SQLite, which has one writer."""
    return set() if tx.dialect.name == "sqlite" else set(tx.execute(_CLAIMING).scalars())


def _in_flight(silent_after: timedelta) -> Select[Any]:
    """Return the statement for attempts, with a column for each field of ``StoppedAttempt``."""
    is_of_attempt = (c.workspace_id == a.workspace_id, c.task_id == a.task_id, c.attempt == a.number)
    usd = select(func.sum(c.cost_usd)).where(*is_of_attempt).correlate(attempts).scalar_subquery()
    unpriced = select(func.count()).where(*is_of_attempt, c.cost_usd.is_(None)).correlate(attempts).scalar_subquery()
    return (
        select(
            *(
                a.task_id,
                a.number.label("attempt"),
                a.project_id,
                p.name.label("project"),
                a.run_id,
                t.key.label("task"),
            ),
            *(w.name.label("worker"), w.host, a.started_at, a.progress_at, w.heartbeat_at.label("heard_at")),
            case((w.heartbeat_at < db_after(-silent_after.total_seconds()), 1), else_=0).label("silent"),
            *(t.repeatable, a.outcome, a.began, a.finished_at, a.error, t.state, t.reasons),
            *(usd.label("cost_usd"), unpriced.label("unpriced_calls")),
        )
        .select_from(attempts)
        .join(tasks, t.id == a.task_id)
        .join(projects, p.id == a.project_id)
        .outerjoin(workers, w.id == a.worker_id)
        .order_by(a.started_at, t.key)
    )


def list_open_attempts(
    tx: Connection, workspace_id: str, project_id: str | None = None, *, silent_after: timedelta
) -> list[StoppedAttempt]:
    """Return the open attempts of the workspace, or of that project."""
    statement = _in_flight(silent_after).where(a.workspace_id == workspace_id, a.finished_at.is_(None))
    if project_id is not None:
        statement = statement.where(a.project_id == project_id)
    return _attempts(tx, statement)


def get_attempts(
    tx: Connection, workspace_id: str, keys: Collection[tuple[str, int]], *, silent_after: timedelta
) -> list[StoppedAttempt]:
    """Return the stored attempts of these (task id, attempt) pairs."""
    result: list[StoppedAttempt] = []
    sorted_keys = sorted(keys)
    for start in range(0, len(sorted_keys), BATCH):
        in_batch = tuple_(a.task_id, a.number).in_(sorted_keys[start : start + BATCH])
        result += _attempts(tx, _in_flight(silent_after).where(a.workspace_id == workspace_id, in_batch))
    return result


def _attempts(tx: Connection, statement: Select[Any]) -> list[StoppedAttempt]:
    return [_attempt(row) for row in tx.execute(statement).mappings()]


def _attempt(row: Any) -> StoppedAttempt:
    converted = {
        "silent": bool(row["silent"]),
        "repeatable": bool(row["repeatable"]),
        "outcome": None if row["outcome"] is None else Outcome(row["outcome"]),
        "began": row["began"] is not False,
        "state": TaskState(row["state"]),
        "cost_usd": row["cost_usd"] or ZERO,
    }
    return StoppedAttempt(**{**row, **converted})


def _old(workspace_id: str, age: timedelta) -> ColumnElement[bool]:
    return (s.workspace_id == workspace_id) & (s.ended_at < db_after(-age.total_seconds()))


def count_old(tx: Connection, workspace_id: str, *, age: timedelta) -> int:
    """Count the stops that ended longer than *age* ago."""
    return tx.execute(select(func.count()).select_from(stops).where(_old(workspace_id, age))).scalar_one()


def delete_old(tx: Connection, workspace_id: str, *, age: timedelta, limit: int) -> int:
    """Delete at most *limit* stops that ended longer than *age* ago. Return how many."""
    ids = list(tx.execute(select(s.id).where(_old(workspace_id, age)).limit(limit)).scalars())
    return tx.execute(delete(stops).where(s.id.in_(ids))).rowcount if ids else 0
