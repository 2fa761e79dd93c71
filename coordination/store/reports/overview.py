"""The whole system on one screen: projects with their supervisors, open runs, living workers, today's cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

from coordination.domain.runs import Run
from coordination.domain.supervision import StatusThresholds, status_of
from coordination.store.queries import fleet, projects, runs, supervisors
from coordination.store.reports import project_summary, spending


@dataclass(frozen=True, slots=True)
class ProjectLine:
    """One project. ``supervisor``: running, stale or stopped; ``error``: what its last tick failed with."""

    id: str
    name: str
    identity: str
    status: str
    supervisor: str
    error: str | None
    open_runs: int
    tasks: int
    cost_usd: Decimal


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
    runs: list[Run]
    workers: list[WorkerLine]
    cost_today_usd: Decimal
    unpriced_today: int


def overview(
    tx: Connection, workspace_id: str, *, thresholds: StatusThresholds, live_within: timedelta, most: int = 20
) -> Overview:
    """Everything at one moment; projects that are archived are left out, of open runs the newest *most* are shown."""
    totals = project_summary.totals(tx, workspace_id)
    lines = []
    for project in projects.listed(tx, workspace_id):
        if project.status == "archived":
            continue
        found = supervisors.get(tx, workspace_id, project.id)
        age = None if found is None or found.ended_at is not None else found.age
        total = totals.get(project.id, project_summary.ProjectTotals())
        lines.append(
            ProjectLine(
                id=project.id,
                name=project.name,
                identity=project.identity,
                status=project.status.value,
                supervisor=status_of(age, thresholds).value,
                error=found.error if found else None,
                open_runs=total.open_runs,
                tasks=total.tasks,
                cost_usd=total.cost_usd,
            )
        )
    cost, unpriced = spending.today(tx, workspace_id)
    return Overview(
        projects=lines,
        runs=runs.listed(tx, workspace_id, open_only=True, limit=most),
        workers=living(tx, within=live_within),
        cost_today_usd=cost,
        unpriced_today=unpriced,
    )


def living(tx: Connection, *, within: timedelta) -> list[WorkerLine]:
    """The workers heard of within that time, of all workspaces: a worker serves every one."""
    busy = fleet.busy(tx)
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
        for row in fleet.live(tx, within=within)
    ]
