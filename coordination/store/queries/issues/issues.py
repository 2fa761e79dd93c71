"""Statements on imported issues."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, delete, func, select, update

from coordination.store.driver import insert_rows
from coordination.store.tables.issues.issues import issues
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

i = issues.c


def replace_all(tx: Connection, workspace_id: str, project_id: str, rows: Sequence[tuple[str, str]]) -> int:
    """Replace the project's issues with these (id, raw), in this order, and return how many there were.

    Issues that exist already keep their tasks.
    """
    of_project = i.workspace_id == workspace_id, i.project_id == project_id
    linked = tx.execute(select(i.id, i.task_id).where(*of_project, i.task_id.is_not(None)))
    task_ids = {row.id: row.task_id for row in linked}
    replaced = tx.execute(delete(issues).where(*of_project)).rowcount
    now = tx.execute(select(db_now())).scalar_one()
    common = {"workspace_id": workspace_id, "project_id": project_id, "imported_at": now}
    new = [
        {**common, "id": issue_id, "position": position, "raw": raw, "task_id": task_ids.get(issue_id)}
        for position, (issue_id, raw) in enumerate(rows)
    ]
    insert_rows(tx, issues, new)
    return replaced


def list_all(tx: Connection, workspace_id: str, project_id: str) -> list[RowMapping]:
    """Return all issues in the file's order: id, raw, and the state of the task that was created for each."""
    return list(
        tx.execute(
            select(i.id, i.raw, i.task_id, tasks.c.state, tasks.c.finished_at)
            .outerjoin(tasks, tasks.c.id == i.task_id)
            .where(i.workspace_id == workspace_id, i.project_id == project_id)
            .order_by(i.position)
        ).mappings()
    )


def count(tx: Connection, workspace_id: str, project_id: str) -> int:
    """Count the project's issues."""
    of_project = i.workspace_id == workspace_id, i.project_id == project_id
    return tx.execute(select(func.count()).where(*of_project)).scalar_one()


def link(tx: Connection, workspace_id: str, project_id: str, links: Sequence[tuple[str, str]]) -> None:
    """Store the task of each issue, from (issue id, task id) pairs."""
    for issue_id, task_id in links:
        issue = update(issues).where(i.workspace_id == workspace_id, i.project_id == project_id, i.id == issue_id)
        tx.execute(issue.values(task_id=task_id))
