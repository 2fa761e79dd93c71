"""Statements on issues of foreign trackers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, delete, func, select, update

from coordination.store.bulk import insert_rows
from coordination.store.tables.issues.issues import issues
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

i = issues.c


def replace_all(tx: Connection, workspace_id: str, project_id: str, rows: Sequence[tuple[str, str]]) -> None:
    """Make these (id, raw) the project's issues, in this order; jobs already linked to an id stay linked."""
    linked = {
        row.id: row.task_id
        for row in tx.execute(
            select(i.id, i.task_id).where(
                i.workspace_id == workspace_id, i.project_id == project_id, i.task_id.is_not(None)
            )
        )
    }
    tx.execute(delete(issues).where(i.workspace_id == workspace_id, i.project_id == project_id))
    now = tx.execute(select(db_now())).scalar_one()
    insert_rows(
        tx,
        issues,
        [
            {
                "workspace_id": workspace_id,
                "project_id": project_id,
                "id": issue_id,
                "position": position,
                "raw": raw,
                "task_id": linked.get(issue_id),
                "imported_at": now,
            }
            for position, (issue_id, raw) in enumerate(rows)
        ],
    )


def listed(tx: Connection, workspace_id: str, project_id: str) -> list[RowMapping]:
    """All issues in the file's order: id, raw, and what became of the job that works each off."""
    return list(
        tx.execute(
            select(i.id, i.raw, i.task_id, tasks.c.state, tasks.c.finished_at)
            .outerjoin(tasks, tasks.c.id == i.task_id)
            .where(i.workspace_id == workspace_id, i.project_id == project_id)
            .order_by(i.position)
        ).mappings()
    )


def count(tx: Connection, workspace_id: str, project_id: str) -> int:
    """How many issues the project has."""
    return tx.execute(
        select(func.count()).where(i.workspace_id == workspace_id, i.project_id == project_id)
    ).scalar_one()


def link(tx: Connection, workspace_id: str, project_id: str, jobs: Sequence[tuple[str, str]]) -> None:
    """Note which task works which issue off: (issue id, task id)."""
    for issue_id, task_id in jobs:
        tx.execute(
            update(issues)
            .where(i.workspace_id == workspace_id, i.project_id == project_id, i.id == issue_id)
            .values(task_id=task_id)
        )
