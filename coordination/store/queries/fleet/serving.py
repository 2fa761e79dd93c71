"""Queries for the live workers that serve a workspace, and the tasks that run on workers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, RowMapping, select

from coordination.store.queries.fleet import workers
from coordination.store.tables.projects.projects import projects, workspaces
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now


def list_live_for(tx: Connection, workspace_id: str, *, within: timedelta) -> list[RowMapping]:
    """Return the live workers of this workspace that are not draining."""
    name = workspace_name(tx, workspace_id)
    return [
        row
        for row in workers.list_live(tx, within=within)
        if row["draining_at"] is None and (row["serves"] is None or name in row["serves"])
    ]


def workspace_name(tx: Connection, workspace_id: str) -> str:
    """Return the name of a workspace."""
    return str(tx.execute(select(workspaces.c.name).where(workspaces.c.id == workspace_id)).scalar())


def list_running_on(tx: Connection, worker_ids: Sequence[str]) -> list[RowMapping]:
    """Return what runs on these workers: task_id, number, key, run_id, project, started_at, and the database's now."""
    project, now = projects.c.name.label("project"), db_now().label("now")
    statement = (
        select(a.task_id, a.number, t.key, t.run_id, project, a.started_at, now)
        .join(tasks, t.id == a.task_id)
        .join(projects, projects.c.id == t.project_id)
        .where(a.worker_id.in_(worker_ids), a.finished_at.is_(None))
        .order_by(a.started_at)
    )
    return list(tx.execute(statement).mappings())
