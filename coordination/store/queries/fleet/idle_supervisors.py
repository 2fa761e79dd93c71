"""Statements that find, renew and end supervisors without work, many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, bindparam, not_, or_, select, text, update

from coordination.domain.tasks.tasks import OPEN, BlockReason, TaskState
from coordination.store.queries import one_of
from coordination.store.queries.fleet.supervisors import IS_NOT_TICKING, TICK_END, is_overdue
from coordination.store.tables.fleet.workers import supervisors
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after, db_now

s, a, t, r = supervisors.c, attempts.c, tasks.c, runs.c


def has(table: Table, *where: ColumnElement[bool] | Any) -> ColumnElement[bool]:
    """Return whether the supervisor's project has such a row in *table*. A scalar, as an EXISTS may become a join."""
    row = select(1).select_from(table).where(table.c.project_id == s.project_id, *where)
    return row.correlate(supervisors).limit(1).scalar_subquery().is_not(None)


def has_blocked(reasons: BlockReason, *where: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return whether the supervisor's project has a task that is blocked for one of these reasons."""
    return has(tasks, text(f"tasks.state = 'blocked' AND (tasks.reasons & {int(reasons)}) <> 0"), *where)


# States are literals, so that the planner uses the partial indexes for prepared statements too.
_QUEUED = text(f"tasks.state = '{TaskState.QUEUED}'")
_STATES = ", ".join(f"'{state}'" for state in sorted(OPEN))
_OPEN_TASK = select(1).where(t.run_id == r.id, text(f"tasks.state IN ({_STATES})")).correlate(runs).limit(1)
_HAS_DUTIES = or_(
    has(attempts, a.finished_at.is_(None), a.lease_until < db_now()),
    has(tasks, _QUEUED, t.enqueued_at.is_(None), or_(t.not_before.is_(None), t.not_before <= db_now())),
    has(tasks, _QUEUED, t.enqueued_at.is_not(None), t.enqueued_at < db_after(bindparam("enqueued_before"))),
    has(runs, r.finished_at.is_(None), _OPEN_TASK.scalar_subquery().is_(None)),
)
_IS_OPEN = or_(has(runs, r.finished_at.is_(None)), has(attempts, a.finished_at.is_(None)))


@cache
def _quiet(duties: tuple[ColumnElement[bool], ...]) -> Select[Any]:
    return (
        select(s.workspace_id, s.project_id)
        .where(not_(or_(_HAS_DUTIES, *duties)))
        .order_by(s.heartbeat_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
    )


def lock(
    tx: Connection,
    *,
    duties: tuple[ColumnElement[bool], ...],
    enqueue_again_after: timedelta,
    limit: int,
    every: timedelta | None = None,
    projects: Sequence[str] = (),
    workspaces: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """Lock live supervisors whose tick would only write the heartbeat, and return their (workspace, project).

    *duties*: conditions built with ``has`` under which a tick has more to do. Selects from *projects*, or with *every*
    those that have not ticked for that long; only of *workspaces*, if given. Skips those that are ticking or locked.
    """
    is_selected = (
        and_(s.ended_at.is_(None), IS_NOT_TICKING, s.project_id.in_(projects)) if every is None else is_overdue(every)
    )
    values = {"enqueued_before": -enqueue_again_after.total_seconds(), "limit": limit}
    rows = tx.execute(_quiet(duties).where(is_selected, one_of(s.workspace_id, workspaces)), values)
    return [(row.workspace_id, row.project_id) for row in rows]


def end(tx: Connection, projects: Sequence[str], *, state: dict[str, Any]) -> set[str]:
    """End those of the locked supervisors whose project has neither an open run nor an open attempt.

    The check follows the lock, so it sees earlier submissions; a later submission starts the supervisor again.
    """
    return set(
        tx.execute(
            update(supervisors)
            .where(s.project_id.in_(projects), not_(_IS_OPEN))
            .values(**TICK_END | {"state": state, "ended_at": db_now()})
            .returning(s.project_id)
        ).scalars()
    )


def renew(tx: Connection, states: Mapping[tuple[str, str], dict[str, Any]], *, lifetime: timedelta) -> None:
    """Write heartbeat and state of the locked supervisors, by (workspace, project), and renew their lifetime."""
    if states:
        tx.execute(
            update(supervisors)
            .where(s.workspace_id == bindparam("ws"), s.project_id == bindparam("project"))
            .values(**TICK_END, expires_at=db_after(bindparam("lifetime"))),
            [
                {"ws": ws, "project": project, "new_state": state, "lifetime": lifetime.total_seconds()}
                for (ws, project), state in states.items()
            ],
        )
