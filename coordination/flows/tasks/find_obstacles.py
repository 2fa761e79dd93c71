"""What keeps a whole run from going on until a person acts; nothing, when any of it can still move by itself."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, case, exists, func, or_, select

from coordination.domain.tasks.explanations import Obstacle, no_worker
from coordination.domain.tasks.tasks import NO_REASON, OPEN, BlockReason, TaskState
from coordination.services.forecast.cost_estimates import expected
from coordination.services.holds import HOLDS
from coordination.services.holds.base import HeldRun
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import serving
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

t, d = tasks.c, dependencies.c

_PASSING = [hold.reason for hold in HOLDS if hold.passes]
_PASSES = functools.reduce(operator.or_, _PASSING)
"""What goes away without a person."""
_WORTH_SAYING = timedelta(seconds=10)


def find_obstacles(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    run_id: str,
    *,
    live_within: timedelta,
    needs_worker: bool,
    estimator: Estimator = expected,
) -> list[Obstacle]:
    """Everything that keeps the run from going on; empty while some of it can go on by itself, now or soon.

    *needs_worker*: a worker that lives (heard of within *live_within*) has to be there already; else one is started.
    *estimator*: what tasks are expected to cost.
    """
    groups = _groups(tx, workspace_id, run_id)
    if not groups or any(state is TaskState.RUNNING for state, _ in groups):
        return []
    run = HeldRun(tx, workspace_id, project_id, run_id, groups, estimator)
    of_project = [obstacle for hold in HOLDS for obstacle in hold.of_project(run)]
    if of_project:
        return [*of_project, *(_of_tasks(run) or ())]
    queued = sum(number for (state, _), number in groups.items() if state is TaskState.QUEUED)
    own = [reasons & ~BlockReason.DEPENDENCIES for state, reasons in groups if state is TaskState.BLOCKED]
    passes = any(reasons != NO_REASON and reasons & ~_PASSES == NO_REASON for reasons in own)
    if queued or passes or _waits_for_others(tx, workspace_id, run_id):
        if needs_worker and not serving.list_live_for(tx, workspace_id, within=live_within):
            name = serving.workspace_name(tx, workspace_id)
            return [Obstacle("no_worker", queued, (name,), no_worker(name))]
        return _later(tx, workspace_id, run_id)
    obstacles = _of_tasks(run)
    return _later(tx, workspace_id, run_id) if obstacles == [] else obstacles or []


def _of_tasks(run: HeldRun) -> list[Obstacle] | None:
    """What holds single tasks; None when one of them goes on by itself."""
    found: list[Obstacle] = []
    for hold in HOLDS:
        obstacles = hold.of_run(run)
        if obstacles is None:
            return None
        found += obstacles
    return found


def _later(tx: Connection, workspace_id: str, run_id: str) -> list[Obstacle]:
    """The wait for the task that starts first, if that is long and no other may start now."""
    start = next_start(tx, workspace_id, run_id)
    if start is None or start.at - start.now < _WORTH_SAYING:
        return []
    words = f"{start.key} is the first, at {start.at.astimezone():%Y-%m-%d %H:%M:%S}; why: coord explain {start.key}"
    return [Obstacle("time", 1, (start.key,), words, lasts=False)]


@dataclass(frozen=True, slots=True)
class NextStart:
    """The task of a run that starts first, and the database's clock."""

    key: str
    at: datetime
    now: datetime


def next_start(tx: Connection, workspace_id: str, run_id: str) -> NextStart | None:
    """The task of the run that starts first of those whose time has not come.

    None when another one may start now, or none waits for a time.
    """
    row = tx.execute(
        select(t.key, t.not_before, db_now().label("now"))
        .where(
            t.workspace_id == workspace_id,
            t.run_id == run_id,
            or_(
                t.state == TaskState.QUEUED,
                and_(t.state == TaskState.BLOCKED, t.reasons.in_([int(reason) for reason in _PASSING])),
            ),
        )
        .order_by(case((t.not_before.is_(None), 0), else_=1), t.not_before)
        .limit(1)
    ).first()
    if row is None or row.not_before is None or row.not_before <= row.now:
        return None
    return NextStart(row.key, row.not_before, row.now)


def _groups(tx: Connection, workspace_id: str, run_id: str) -> dict[tuple[TaskState, BlockReason], int]:
    """How many open tasks of the run are in which state for which reasons."""
    rows = tx.execute(
        select(t.state, t.reasons, func.count())
        .where(t.workspace_id == workspace_id, t.run_id == run_id, t.state.in_(OPEN))
        .group_by(t.state, t.reasons)
    )
    return {(TaskState(row[0]), BlockReason(row[1])): row[2] for row in rows}


def _waits_for_others(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Whether a task waits for one of another run, which may go on."""
    parent = tasks.alias("parent")
    return bool(
        tx.execute(
            select(
                exists(
                    select(t.id)
                    .join(dependencies, d.child_id == t.id)
                    .join(parent, parent.c.id == d.parent_id)
                    .where(
                        t.workspace_id == workspace_id,
                        t.run_id == run_id,
                        t.state == TaskState.BLOCKED,
                        or_(t.reasons == int(BlockReason.DEPENDENCIES), t.reasons == 0),
                        d.kind.in_(HOLDING),
                        d.satisfied_at.is_(None),
                        parent.c.run_id != run_id,
                        parent.c.state.in_(OPEN),
                    )
                )
            )
        ).scalar()
    )
