"""The whole system on one screen: projects with their supervisors, open runs, live workers, today's cost.

Counts only what is open, live or of today, so that its duration does not depend on history. Totals since a project
began are in the project summary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection, func, select

from coordination.domain.fleet.supervisor_status import StatusThresholds, status_of
from coordination.domain.tasks.tasks import OPEN, RunRecord
from coordination.store.queries.fleet import supervisors, workers
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import runs
from coordination.store.reports.money import spending
from coordination.store.reports.tasks import running
from coordination.store.reports.tasks.running import RunningTask
from coordination.store.tables.tasks.runs import runs as runs_table
from coordination.store.tables.tasks.tasks import tasks

t = tasks.c
_RUNS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ProjectLine:
    """One project. ``supervisor``: running, stale or stopped.

    ``error``: the error of its last tick; ``error_since``: when the last tick succeeded.
    """

    id: str
    name: str
    identity: str
    status: str
    stopped: bool
    supervisor: str
    error: str | None
    error_since: datetime | None
    open_runs: int
    open_tasks: int
    cost_today_usd: Decimal


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """One live worker and how many of its slots are busy."""

    name: str
    host: str
    pid: int
    slots: int
    busy: int
    draining: bool
    started_at: datetime
    heartbeat_at: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """The content of ``coord status``."""

    projects: list[ProjectLine]
    runs: list[RunRecord]
    workers: list[WorkerLine]
    running: list[RunningTask]
    running_in_all: int
    cost_today_usd: Decimal
    unpriced_today: int


def overview(
    tx: Connection, workspace_id: str, *, thresholds: StatusThresholds, live_within: timedelta, most: int = 20
) -> Overview:
    """Return an overview without archived projects, and with the newest *most* open runs."""
    open_runs, open_tasks = _open_work(tx, workspace_id)
    active, in_all = running.list_running_tasks(tx, workspace_id, most=most)
    cost = spending.today(tx, workspace_id)
    lines = []
    for project in projects.list_projects(tx, workspace_id):
        if project.status == "archived":
            continue
        supervisor = supervisors.get(tx, workspace_id, project.id)
        age = None if supervisor is None or supervisor.ended_at is not None else supervisor.age
        lines.append(
            ProjectLine(
                id=project.id,
                name=project.name,
                identity=project.identity,
                status=project.status.value,
                stopped=project.stopped,
                supervisor=status_of(age, thresholds).value,
                error=supervisor.error if supervisor else None,
                error_since=supervisor.failing_since if supervisor else None,
                open_runs=open_runs[project.id],
                open_tasks=open_tasks[project.id],
                cost_today_usd=cost[project.id].cost_usd if project.id in cost else Decimal(0),
            )
        )
    return Overview(
        projects=lines,
        runs=runs.list_runs(tx, workspace_id, open_only=True, limit=most),
        workers=list_live_workers(tx, within=live_within),
        running=active,
        running_in_all=in_all,
        cost_today_usd=sum((group.cost_usd for group in cost.values()), Decimal(0)),
        unpriced_today=sum(group.unpriced_calls for group in cost.values()),
    )


def _open_work(tx: Connection, workspace_id: str) -> tuple[Counter[str], Counter[str]]:
    """Return how many open runs, and how many open tasks, each project has."""
    r = runs_table.c
    is_open = r.workspace_id == workspace_id, r.finished_at.is_(None)
    rows = tx.execute(select(r.id, r.project_id).where(*is_open)).all()
    open_runs = Counter(row.project_id for row in rows)
    open_tasks: Counter[str] = Counter()
    for start in range(0, len(rows), _RUNS_AT_ONCE):
        ids = [row.id for row in rows[start : start + _RUNS_AT_ONCE]]
        statement = (
            select(t.project_id, func.count())
            .where(t.workspace_id == workspace_id, t.run_id.in_(ids), t.state.in_(OPEN))
            .group_by(t.project_id)
        )
        for project_id, number in tx.execute(statement):
            open_tasks[project_id] += number
    return open_runs, open_tasks


def list_live_workers(tx: Connection, *, within: timedelta) -> list[WorkerLine]:
    """Return the live workers of all workspaces."""
    busy = workers.count_open_attempts(tx)
    return [
        WorkerLine(
            **{name: row[name] for name in ("name", "host", "pid", "slots", "started_at", "heartbeat_at")},
            busy=busy.get(row["id"], 0),
            draining=row["draining_at"] is not None,
        )
        for row in workers.list_live(tx, within=within)
    ]
