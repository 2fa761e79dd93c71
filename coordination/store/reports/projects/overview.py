"""The whole system on one screen: projects with their supervisors, open runs, living workers, today's cost.

Only what is open, alive or of today is counted, so the answer takes as long however much has been done before. What a
project came to since it began is the project summary's to say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection, func, select

from coordination.domain.fleet.supervisor_status import StatusThresholds, status_of
from coordination.domain.tasks.runs import RunRecord
from coordination.domain.tasks.tasks import OPEN
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

    ``error``: what its last tick failed with; ``error_since``: when the last one succeeded.
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
    """One living worker and how many of its places are taken."""

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
    """What ``coord status`` shows."""

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
    """Everything at one moment; projects that are archived are left out, of open runs the newest *most* are shown."""
    open_runs, open_tasks = _open_work(tx, workspace_id)
    active, in_all = running.running(tx, workspace_id, most=most)
    cost = spending.today(tx, workspace_id)
    lines = []
    for project in projects.listed(tx, workspace_id):
        if project.status == "archived":
            continue
        found = supervisors.get(tx, workspace_id, project.id)
        age = None if found is None or found.ended_at is not None else found.age
        lines.append(
            ProjectLine(
                id=project.id,
                name=project.name,
                identity=project.identity,
                status=project.status.value,
                stopped=project.stopped,
                supervisor=status_of(age, thresholds).value,
                error=found.error if found else None,
                error_since=found.failing_since if found else None,
                open_runs=open_runs[project.id],
                open_tasks=open_tasks[project.id],
                cost_today_usd=cost[project.id].cost_usd if project.id in cost else Decimal(0),
            )
        )
    return Overview(
        projects=lines,
        runs=runs.listed(tx, workspace_id, open_only=True, limit=most),
        workers=living(tx, within=live_within),
        running=active,
        running_in_all=in_all,
        cost_today_usd=sum((group.cost_usd for group in cost.values()), Decimal(0)),
        unpriced_today=sum(group.unpriced_calls for group in cost.values()),
    )


def _open_work(tx: Connection, workspace_id: str) -> tuple[Counter[str], Counter[str]]:
    """How many runs, and how many tasks, each project has open."""
    found = tx.execute(
        select(runs_table.c.id, runs_table.c.project_id).where(
            runs_table.c.workspace_id == workspace_id, runs_table.c.finished_at.is_(None)
        )
    ).all()
    open_runs = Counter(row.project_id for row in found)
    open_tasks: Counter[str] = Counter()
    for start in range(0, len(found), _RUNS_AT_ONCE):
        ids = [row.id for row in found[start : start + _RUNS_AT_ONCE]]
        counted = (
            select(t.project_id, func.count())
            .where(t.workspace_id == workspace_id, t.run_id.in_(ids), t.state.in_(OPEN))
            .group_by(t.project_id)
        )
        for project_id, number in tx.execute(counted):
            open_tasks[project_id] += number
    return open_runs, open_tasks


def living(tx: Connection, *, within: timedelta) -> list[WorkerLine]:
    """The workers heard of within that time, of all workspaces: a worker serves every one."""
    busy = workers.busy(tx)
    return [
        WorkerLine(
            name=row["name"],
            host=row["host"],
            pid=row["pid"],
            slots=row["slots"],
            busy=busy.get(row["id"], 0),
            draining=row["draining_at"] is not None,
            started_at=row["started_at"],
            heartbeat_at=row["heartbeat_at"],
        )
        for row in workers.live(tx, within=within)
    ]
