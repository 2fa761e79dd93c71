"""A project's imported issues, shown as closed when their tasks have completed."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.domain.issues.completion import close_issue
from coordination.domain.issues.record import Issue
from coordination.domain.tasks.tasks import TaskState
from coordination.formats.beads import read_issues
from coordination.store.queries.issues import issues


def list_issues(tx: Connection, workspace_id: str, project_id: str) -> list[Issue]:
    """Return all imported issues in the file's order; empty without an import."""
    rows = issues.list_all(tx, workspace_id, project_id)
    completed_at = {row["id"]: row["finished_at"] for row in rows if row["state"] == TaskState.COMPLETED}
    imported = read_issues("\n".join(row["raw"] for row in rows).encode())
    return [close_issue(issue, completed_at[issue.id]) if issue.id in completed_at else issue for issue in imported]
