"""What keeps a whole run from going on until a person acts; nothing, when any of it can still move by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, case, exists, func, or_, select

from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.tasks import NO_REASON, OPEN, BlockReason, TaskState
from coordination.store.queries.fleet import serving
from coordination.store.queries.projects import projects, stops
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

t, d = tasks.c, dependencies.c

_PASSES = BlockReason.NOT_BEFORE | BlockReason.RESERVATION
"""What goes away without a person."""
_PAUSED = BlockReason.PAUSED
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class StandstillCause:
    """One thing that only a person takes away. ``kind``: a block reason, stopped, on_hold or no_worker.

    *tasks* counts the run's tasks that it holds; *keys* names some of them, or what else is meant (the project, the
    workspace, the sentence of a stop and the command that ends it).
    """

    kind: str
    tasks: int
    keys: tuple[str, ...]


def holds_of_run(
    tx: Connection, workspace_id: str, project_id: str, run_id: str, *, live_within: timedelta, needs_worker: bool
) -> list[StandstillCause]:
    """Everything that keeps the run from going on; empty while some of it can go on by itself, now or later.

    *needs_worker*: a worker that lives (heard of within *live_within*) has to be there already; else one is started.
    Tasks that wait for money are taken to be held: whether money comes by itself the caller has to find out.
    """
    groups = _groups(tx, workspace_id, run_id)
    if not groups or any(state is TaskState.RUNNING for state, _ in groups):
        return []
    on_hold = list(_of_project(tx, workspace_id, project_id, sum(groups.values())))
    if on_hold:
        return [*on_hold, *_of_tasks(tx, workspace_id, run_id, groups)]
    queued = sum(number for (state, _), number in groups.items() if state is TaskState.QUEUED)
    own = [reasons & ~BlockReason.DEPENDENCIES for state, reasons in groups if state is TaskState.BLOCKED]
    passes = any(reasons != NO_REASON and reasons & ~(_PASSES | _PAUSED) == NO_REASON for reasons in own)
    if queued or passes or _waits_for_others(tx, workspace_id, run_id):
        if not needs_worker or serving.live_for(tx, workspace_id, within=live_within):
            return []
        return [StandstillCause("no_worker", queued, (serving.name_of(tx, workspace_id),))]
    return list(_of_tasks(tx, workspace_id, run_id, groups))


def next_start(tx: Connection, workspace_id: str, run_id: str) -> tuple[str, datetime, datetime] | None:
    """The task of the run that starts first of those whose time has not come: its key, that time, the time now.

    None when another one may start now, or none waits for a time.
    """
    row = tx.execute(
        select(t.key, t.not_before, db_now())
        .where(
            t.workspace_id == workspace_id,
            t.run_id == run_id,
            or_(
                t.state == TaskState.QUEUED,
                and_(t.state == TaskState.BLOCKED, t.reasons == int(BlockReason.NOT_BEFORE)),
            ),
        )
        .order_by(case((t.not_before.is_(None), 0), else_=1), t.not_before)
        .limit(1)
    ).first()
    return None if row is None or row[1] is None or row[1] <= row[2] else (row[0], row[1], row[2])


def _groups(tx: Connection, workspace_id: str, run_id: str) -> dict[tuple[TaskState, BlockReason], int]:
    """How many open tasks of the run are in which state for which reasons."""
    rows = tx.execute(
        select(t.state, t.reasons, func.count())
        .where(t.workspace_id == workspace_id, t.run_id == run_id, t.state.in_(OPEN))
        .group_by(t.state, t.reasons)
    )
    return {(TaskState(row[0]), BlockReason(row[1])): row[2] for row in rows}


def _of_project(tx: Connection, workspace_id: str, project_id: str, number: int) -> Iterator[StandstillCause]:
    """What holds everything of the project, whatever its tasks wait for besides."""
    if (stop := stops.current(tx, workspace_id, project_id)) is not None:
        yield StandstillCause("stopped", number, (stop.sentence(), stop.command))
    project = projects.get(tx, workspace_id, project_id)
    if project is not None and project.status in (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED):
        yield StandstillCause("on_hold", number, (project.name,))


def _of_tasks(
    tx: Connection, workspace_id: str, run_id: str, groups: dict[tuple[TaskState, BlockReason], int]
) -> Iterator[StandstillCause]:
    """What holds single tasks."""
    for reason in BlockReason:
        if reason & (_PASSES | _PAUSED | BlockReason.DEPENDENCIES):
            continue
        number = sum(
            count for (state, reasons), count in groups.items() if state is TaskState.BLOCKED and reason in reasons
        )
        if number:
            keys = ready.keys_held(tx, workspace_id, run_id, reason, most=_MOST_NAMED)
            yield StandstillCause((reason.name or "").lower(), number, tuple(keys))


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
