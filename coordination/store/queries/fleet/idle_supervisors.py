"""Supervisors whose tick would find nothing to do: looked for, renewed and ended many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, bindparam, not_, or_, select, text, update

from coordination.domain.tasks.tasks import OPEN, BlockReason, TaskState
from coordination.store.queries import one_of
from coordination.store.queries.fleet.supervisors import RESTS, due_since
from coordination.store.tables.fleet.workers import supervisors
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after, db_now

s, a, t, r = supervisors.c, attempts.c, tasks.c, runs.c


def has(table: Table, *where: ColumnElement[bool] | Any) -> ColumnElement[bool]:
    """Whether the supervisor's project has such a row; a query for one value, as an EXISTS may become a join."""
    row = select(1).select_from(table).where(table.c.project_id == s.project_id, *where)
    return row.correlate(supervisors).limit(1).scalar_subquery().is_not(None)


def has_blocked(reasons: BlockReason, *where: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the supervisor's project has a task that is blocked for one of these reasons."""
    return has(tasks, text(f"tasks.state = 'blocked' AND (tasks.reasons & {int(reasons)}) <> 0"), *where)


# States are written out, so that the planner sees the partial indexes however the statement is prepared.
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
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
    )


def lock(
    tx: Connection,
    *,
    duties: tuple[ColumnElement[bool], ...],
    enqueue_again_after: timedelta,
    most: int,
    every: timedelta | None = None,
    projects: Sequence[str] = (),
    workspaces: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """(workspace, project) of live supervisors whose tick would do nothing but write the heartbeat; locked.

    *duties*: what else a tick may have to do, made of ``has``. Of *projects*, or with *every* of those that have not
    ticked for that long; of *workspaces*, where they are given. Whoever is ticked now, or locked, is not among them.
    """
    which = and_(s.ended_at.is_(None), RESTS, s.project_id.in_(projects)) if every is None else due_since(every)
    values = {"enqueued_before": -enqueue_again_after.total_seconds(), "most": most}
    rows = tx.execute(_quiet(duties).where(which, one_of(s.workspace_id, workspaces)), values)
    return [(row.workspace_id, row.project_id) for row in rows]


def end(tx: Connection, projects: Sequence[str], *, state: dict[str, Any]) -> set[str]:
    """End those of the locked supervisors whose project has neither an open run nor an open attempt.

    It looks after the lock, so it sees what was submitted before that; who submits later wakes them again.
    """
    return set(
        tx.execute(
            update(supervisors)
            .where(s.project_id.in_(projects), not_(_IS_OPEN))
            .values(heartbeat_at=db_now(), ended_at=db_now(), state=state, error=None, tick_owner=None, tick_until=None)
            .returning(s.project_id)
        ).scalars()
    )


def renew(tx: Connection, states: Mapping[tuple[str, str], dict[str, Any]], *, lifetime: timedelta) -> None:
    """Write heartbeat and state of the locked supervisors, by (workspace, project), and renew their lifetime."""
    if states:
        tx.execute(
            update(supervisors)
            .where(s.workspace_id == bindparam("ws"), s.project_id == bindparam("project"))
            .values(
                heartbeat_at=db_now(),
                expires_at=db_after(bindparam("lifetime")),
                state=bindparam("new_state", type_=s.state.type),
                error=None,
                tick_owner=None,
                tick_until=None,
            ),
            [
                {"ws": ws, "project": project, "new_state": state, "lifetime": lifetime.total_seconds()}
                for (ws, project), state in states.items()
            ],
        )
