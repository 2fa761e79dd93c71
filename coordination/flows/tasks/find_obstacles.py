"""Find what keeps a whole run from continuing until a person acts."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, case, exists, func, or_, select

from coordination.domain.tasks.explanations import Obstacle, describe_missing_worker
from coordination.domain.tasks.tasks import NO_REASON, OPEN, BlockReason, TaskState
from coordination.services.forecast.cost_estimates import unpriced_estimator
from coordination.services.holds import HOLDS
from coordination.services.holds.base import HaltedRun
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import workers
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

t, d = tasks.c, dependencies.c

_SELF_LIFTING = [hold.reason for hold in HOLDS if hold.lifts_without_person]
_SELF_LIFTING_MASK = functools.reduce(operator.or_, _SELF_LIFTING)
"""The reasons that are lifted without a person."""
_LONG_WAIT = timedelta(seconds=10)


def find_obstacles(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    run_id: str,
    *,
    live_within: timedelta,
    needs_worker: bool,
    estimator: Estimator = unpriced_estimator,
) -> list[Obstacle]:
    """Return everything that keeps the run from continuing; empty while one of its tasks can continue now or soon.

    *needs_worker*: the caller starts no worker, so that one must be alive (a heartbeat within *live_within*).
    *estimator* estimates the costs of tasks.
    """
    groups = _groups(tx, workspace_id, run_id)
    if not groups or any(state is TaskState.RUNNING for state, _ in groups):
        return []
    run = HaltedRun(tx, workspace_id, project_id, run_id, groups, estimator)
    of_project = [obstacle for hold in HOLDS for obstacle in hold.find_project_obstacles(run)]
    if of_project:
        return [*of_project, *(_of_tasks(run) or ())]
    queued = sum(number for (state, _), number in groups.items() if state is TaskState.QUEUED)
    own = [reasons & ~BlockReason.DEPENDENCIES for state, reasons in groups if state is TaskState.BLOCKED]
    continues_alone = any(reasons != NO_REASON and reasons & ~_SELF_LIFTING_MASK == NO_REASON for reasons in own)
    if queued or continues_alone or _waits_for_others(tx, workspace_id, run_id):
        if needs_worker and not workers.list_live_for(tx, workspace_id, within=live_within):
            name = workers.workspace_name(tx, workspace_id)
            return [Obstacle("no_worker", queued, (name,), describe_missing_worker(name))]
        return _later(tx, workspace_id, run_id)
    obstacles = _of_tasks(run)
    return _later(tx, workspace_id, run_id) if obstacles == [] else obstacles or []


def _of_tasks(run: HaltedRun) -> list[Obstacle] | None:
    """Return what blocks single tasks; None when one of them will continue."""
    result: list[Obstacle] = []
    for hold in HOLDS:
        obstacles = hold.find_run_obstacles(run)
        if obstacles is None:
            return None
        result += obstacles
    return result


def _later(tx: Connection, workspace_id: str, run_id: str) -> list[Obstacle]:
    """Return the wait for the first start time, if it is long and no other task may start now."""
    start = next_start(tx, workspace_id, run_id)
    if start is None or start.at - start.now < _LONG_WAIT:
        return []
    words = f"{start.key} is the first, at {start.at.astimezone():%Y-%m-%d %H:%M:%S}; why: coord explain {start.key}"
    return [Obstacle("time", 1, (start.key,), words, lasts=False)]


@dataclass(frozen=True, slots=True)
class NextStart:
    """The next task of a run to start, and the database's clock."""

    key: str
    at: datetime
    now: datetime


def next_start(tx: Connection, workspace_id: str, run_id: str) -> NextStart | None:
    """Return the first task of the run to start later; None: another may start now, or none has a start time."""
    row = tx.execute(
        select(t.key, t.not_before, db_now().label("now"))
        .where(
            t.workspace_id == workspace_id,
            t.run_id == run_id,
            or_(
                t.state == TaskState.QUEUED,
                and_(t.state == TaskState.BLOCKED, t.reasons.in_([int(reason) for reason in _SELF_LIFTING])),
            ),
        )
        .order_by(case((t.not_before.is_(None), 0), else_=1), t.not_before)
        .limit(1)
    ).first()
    if row is None or row.not_before is None or row.not_before <= row.now:
        return None
    return NextStart(row.key, row.not_before, row.now)


def _groups(tx: Connection, workspace_id: str, run_id: str) -> dict[tuple[TaskState, BlockReason], int]:
    """Return the number of open tasks of the run by state and reasons."""
    rows = tx.execute(
        select(t.state, t.reasons, func.count())
        .where(t.workspace_id == workspace_id, t.run_id == run_id, t.state.in_(OPEN))
        .group_by(t.state, t.reasons)
    )
    return {(TaskState(row[0]), BlockReason(row[1])): row[2] for row in rows}


def _waits_for_others(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Return whether a task waits for an open task of another run."""
    parent = tasks.alias("parent")
    waiting = (
        select(t.id)
        .join(dependencies, d.child_id == t.id)
        .join(parent, parent.c.id == d.parent_id)
        .where(t.workspace_id == workspace_id, t.run_id == run_id, t.state == TaskState.BLOCKED)
        .where(or_(t.reasons == int(BlockReason.DEPENDENCIES), t.reasons == 0))
        .where(d.kind.in_(HOLDING), d.satisfied_at.is_(None), parent.c.run_id != run_id, parent.c.state.in_(OPEN))
    )
    return bool(tx.execute(select(exists(waiting))).scalar())
