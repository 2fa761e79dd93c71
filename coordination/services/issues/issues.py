"""Imported issues of a project: those of one file, unchanged, with the task of each."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.domain.issues.record import Issue
from coordination.store.queries.issues import issues as rows


def replace(
    tx: Connection, workspace_id: str, project_id: str, issues: Sequence[Issue], *, jobs: Sequence[tuple[str, str]] = ()
) -> int:
    """Replace the project's issues, and store the (issue id, task id) pairs of *jobs*. Return how many there were.

    Issues that exist already keep their tasks.
    """
    replaced = rows.count(tx, workspace_id, project_id)
    rows.replace_all(tx, workspace_id, project_id, [(issue.id, issue.raw) for issue in issues])
    rows.link(tx, workspace_id, project_id, jobs)
    return replaced
