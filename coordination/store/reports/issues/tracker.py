"""A project's imported issues as they stand now: the file's records, closed where the job of one has completed."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.domain.issues import Issue, completed
from coordination.domain.tasks.tasks import TaskState
from coordination.formats.beads import read_issues
from coordination.store.queries.issues import issues


def tracked(tx: Connection, workspace_id: str, project_id: str) -> list[Issue]:
    """All imported issues in the file's order; empty when none were imported."""
    rows = issues.listed(tx, workspace_id, project_id)
    done = {row["id"]: row["finished_at"] for row in rows if row["state"] == TaskState.COMPLETED}
    found = read_issues("\n".join(row["raw"] for row in rows).encode())
    return [completed(issue, done[issue.id]) if issue.id in done else issue for issue in found]
