"""Issues of a foreign tracker: a project has those of one file, word for word, and knows which job works which off."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.domain.issues import Issue
from coordination.store.queries.issues import issues as rows


def replace(
    tx: Connection, workspace_id: str, project_id: str, issues: Sequence[Issue], *, jobs: Sequence[tuple[str, str]] = ()
) -> int:
    """Make *issues* the project's only ones, and note the (issue id, task id) pairs of *jobs*; how many there were.

    An issue that was there before keeps its job.
    """
    before = rows.count(tx, workspace_id, project_id)
    rows.replace_all(tx, workspace_id, project_id, [(issue.id, issue.raw) for issue in issues])
    rows.link(tx, workspace_id, project_id, jobs)
    return before
