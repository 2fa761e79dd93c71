"""Statements on stops: the rows, the projects that they hold, and what runs in these.

A stop marks the projects that it covers as stopped, which claims read. Claims need no lock for that: whoever stops
looks afterwards which transactions had begun to claim before (``claiming``), and waits until they have ended.

Who makes projects locks the workspace's row first, shared; who stops or starts locks it alone. So no project is made
beside a stop.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)

from coordination.base.ids import new_id
from coordination.base.money import ZERO
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.projects.stops import Stop, StoppedAttempt
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import BlockReason, TaskState
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
    """Lock the workspace's row against those who stop or start; *shared*: others may do the same meanwhile."""
    one = select(workspaces.c.id).where(workspaces.c.id == workspace_id)
    tx.execute(one.with_for_update(read=shared, key_share=not shared))


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


def active(tx: Connection, workspace_id: str) -> list[Stop]:
    """The stops that hold: the workspace's own first, then those of projects by age."""
    rows = tx.execute(
        _STOPS.where(s.workspace_id == workspace_id).order_by(case((s.project_id.is_(None), 0), else_=1), s.since)
    )
    return [
        Stop(
            id=row.id,
            project_id=row.project_id,
            project=row.project,
            since=row.since,
            actor=row.actor,
            reason=row.reason,
            at_once=row.at_once,
            in_flight=None if row.in_flight is None else tuple((one[0], one[1]) for one in row.in_flight),
        )
        for row in rows
    ]


def current(tx: Connection, workspace_id: str, project_id: str | None = None) -> Stop | None:
    """The stop that holds the whole workspace, else the project's own; None when neither is stopped.

    ``sentence()`` says it to people, and ``command`` ends it.
    """
    found = active(tx, workspace_id)
    return next((one for one in found if one.project_id is None or one.project_id == project_id), None)


def own(tx: Connection, workspace_id: str, project_id: str | None) -> Stop | None:
    """The stop of exactly this: the project, or (None) the whole workspace."""
    return next((one for one in active(tx, workspace_id) if one.project_id == project_id), None)


def add(
    tx: Connection, workspace_id: str, project_id: str | None, *, actor: str, reason: str | None, at_once: bool
) -> str:
    """Begin a stop of a project, or of the whole workspace; its id."""
    stop_id = new_id()
    tx.execute(
        insert(stops).values(
            id=stop_id,
            workspace_id=workspace_id,
            project_id=project_id,
            created_by=id_of(tx, workspace_id, actor),
            reason=reason,
            at_once=at_once,
        )
    )
    return stop_id


def note(tx: Connection, workspace_id: str, stop_id: str, **values: Any) -> None:
    """Set columns of a stop that holds: at_once, in_flight."""
    tx.execute(
        update(stops).where(s.workspace_id == workspace_id, s.id == stop_id, s.ended_at.is_(None)).values(**values)
    )


def end(tx: Connection, workspace_id: str, stop_id: str, *, actor: str) -> bool:
    """End a stop; whether it held."""
    ended = update(stops).where(s.workspace_id == workspace_id, s.id == stop_id, s.ended_at.is_(None))
    return tx.execute(ended.values(ended_at=db_now(), ended_by=id_of(tx, workspace_id, actor))).rowcount > 0


def _covers() -> ColumnElement[bool]:
    """Whether a stop holds a project."""
    holds = select(1).select_from(stops).where(s.workspace_id == p.workspace_id, s.ended_at.is_(None))
    return holds.where(or_(s.project_id.is_(None), s.project_id == p.id)).correlate(projects).exists()


def hold_projects(tx: Connection, workspace_id: str, project_id: str | None = None) -> int:
    """Mark every project, or that one, that a stop covers and that is not marked yet; return how many.

    Two statements: the second one sees what was committed before the rows were locked.
    """
    found = select(p.id).where(
        p.workspace_id == workspace_id, p.status != ProjectStatus.ARCHIVED, ~p.stopped, _covers()
    )
    if project_id is not None:
        found = found.where(p.id == project_id)
    ids = list(tx.execute(found.order_by(p.id).with_for_update(key_share=True)).scalars())
    held = 0
    for start in range(0, len(ids), BATCH):
        held += tx.execute(
            update(projects)
            .where(p.id.in_(ids[start : start + BATCH]), p.status != ProjectStatus.ARCHIVED, _covers())
            .values(stopped=True)
        ).rowcount
    return held


def release_projects(tx: Connection, workspace_id: str, project_id: str | None = None) -> list[str]:
    """Unmark every project, or that one, that no stop covers any more; return those that may go on.

    One that a person has put on hold besides stays so.
    """
    found = select(p.id).where(p.workspace_id == workspace_id, p.stopped)
    if project_id is not None:
        found = found.where(p.id == project_id)
    ids = list(tx.execute(found.order_by(p.id).with_for_update(key_share=True)).scalars())
    going: list[str] = []
    for start in range(0, len(ids), BATCH):
        rows = tx.execute(
            update(projects)
            .where(p.id.in_(ids[start : start + BATCH]), ~_covers())
            .values(stopped=False)
            .returning(p.id, p.status)
        )
        going += [row.id for row in rows if row.status not in (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)]
    return sorted(going)


# A claim locks both tables, before it looks whether its projects are held: so does PostgreSQL with all that a statement
# names. Whoever locked them after the stop was committed sees it.
_CLAIMING = text(
    "SELECT DISTINCT virtualtransaction FROM pg_locks"
    " WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid()"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (relation = CAST('attempts' AS regclass) AND mode = 'RowExclusiveLock'"
    " OR relation = CAST('tasks' AS regclass) AND mode = 'RowShareLock')"
)


def claiming(tx: Connection) -> set[str]:
    """The transactions that may have begun to claim before this moment. None on SQLite, where one writes at a time."""
    return set() if tx.dialect.name == "sqlite" else set(tx.execute(_CLAIMING).scalars())


def _in_flight(silent_after: timedelta) -> Select[Any]:
    of_it = and_(c.workspace_id == a.workspace_id, c.task_id == a.task_id, c.attempt == a.number)
    usd = select(func.sum(c.cost_usd)).where(of_it).correlate(attempts).scalar_subquery()
    unpriced = select(func.count()).where(of_it, c.cost_usd.is_(None)).correlate(attempts).scalar_subquery()
    return (
        select(
            a.task_id,
            a.number,
            a.project_id,
            p.name.label("project"),
            a.run_id,
            t.key,
            w.name.label("worker"),
            w.host,
            a.started_at,
            a.progress_at,
            w.heartbeat_at,
            case((w.heartbeat_at < db_after(-silent_after.total_seconds()), 1), else_=0).label("silent"),
            t.repeatable,
            a.outcome,
            a.began,
            a.finished_at,
            a.error,
            t.state,
            t.reasons,
            usd.label("usd"),
            unpriced.label("unpriced"),
        )
        .select_from(attempts)
        .join(tasks, t.id == a.task_id)
        .join(projects, p.id == a.project_id)
        .outerjoin(workers, w.id == a.worker_id)
        .order_by(a.started_at, t.key)
    )


def running(
    tx: Connection, workspace_id: str, project_id: str | None = None, *, silent_after: timedelta
) -> list[StoppedAttempt]:
    """The attempts of the workspace, or of that project, whose end nobody has written."""
    found = _in_flight(silent_after).where(a.workspace_id == workspace_id, a.finished_at.is_(None))
    if project_id is not None:
        found = found.where(a.project_id == project_id)
    return _attempts(tx, found)


def these(
    tx: Connection, workspace_id: str, keys: Collection[tuple[str, int]], *, silent_after: timedelta
) -> list[StoppedAttempt]:
    """These (task id, attempt) pairs, as far as they are still stored."""
    found: list[StoppedAttempt] = []
    wanted = sorted(keys)
    for start in range(0, len(wanted), BATCH):
        some = tuple_(a.task_id, a.number).in_(wanted[start : start + BATCH])
        found += _attempts(tx, _in_flight(silent_after).where(a.workspace_id == workspace_id, some))
    return found


def _attempts(tx: Connection, statement: Select[Any]) -> list[StoppedAttempt]:
    return [
        StoppedAttempt(
            task_id=row.task_id,
            attempt=row.number,
            project_id=row.project_id,
            project=row.project,
            run_id=row.run_id,
            task=row.key,
            worker=row.worker,
            host=row.host,
            started_at=row.started_at,
            progress_at=row.progress_at,
            heard_at=row.heartbeat_at,
            silent=bool(row.silent),
            repeatable=bool(row.repeatable),
            outcome=None if row.outcome is None else Outcome(row.outcome),
            began=row.began is not False,
            finished_at=row.finished_at,
            error=row.error,
            state=TaskState(row.state),
            reasons=BlockReason(row.reasons),
            cost_usd=row.usd or ZERO,
            unpriced_calls=row.unpriced,
        )
        for row in tx.execute(statement)
    ]


def _old(workspace_id: str, age: timedelta) -> ColumnElement[bool]:
    return and_(s.workspace_id == workspace_id, s.ended_at < db_after(-age.total_seconds()))


def count_old(tx: Connection, workspace_id: str, *, age: timedelta) -> int:
    """How many stops ended longer than that ago."""
    return tx.execute(select(func.count()).select_from(stops).where(_old(workspace_id, age))).scalar_one()


def forget(tx: Connection, workspace_id: str, *, age: timedelta, limit: int) -> int:
    """Delete some stops that ended longer than that ago; how many."""
    ids = list(tx.execute(select(s.id).where(_old(workspace_id, age)).limit(limit)).scalars())
    return tx.execute(delete(stops).where(s.id.in_(ids))).rowcount if ids else 0
