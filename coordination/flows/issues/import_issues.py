"""Import the issues of a tracker into a project in one transaction; they replace earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from coordination.domain.issues.record import Issue
from coordination.services.projects import projects as project_service
from coordination.store.queries.issues import issues as rows


@dataclass(frozen=True, slots=True)
class ImportedIssues:
    """How many issues were stored, and how many they replaced."""

    project_id: str
    project: str
    issues: int
    replaced: int


def import_issues(
    tx: Connection, workspace_id: str, issues: Sequence[Issue], *, identity: str, name: str, path: str | None = None
) -> ImportedIssues:
    """Replace the issues of the project that *identity* names (created if new). Raises Refused if it is archived."""
    project = project_service.resolve(tx, workspace_id, identity=identity, name=name, path=path)
    project_service.require_not_archived(project)
    replaced = rows.replace_all(tx, workspace_id, project.id, [(issue.id, issue.raw) for issue in issues])
    return ImportedIssues(project.id, project.name, len(issues), replaced)
