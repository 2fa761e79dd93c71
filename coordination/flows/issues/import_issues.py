"""Import the issues of a foreign tracker into a project: all of them in one transaction, in place of those before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.issues import Issue
from coordination.domain.projects.projects import ProjectStatus
from coordination.services.issues import issues as issue_service
from coordination.services.projects import projects as project_service


@dataclass(frozen=True, slots=True)
class ImportedIssues:
    """What was stored, and how many issues it took the place of."""

    project_id: str
    project: str
    issues: int
    replaced: int


def import_issues(
    tx: Connection, workspace_id: str, issues: Sequence[Issue], *, identity: str, name: str, path: str | None = None
) -> ImportedIssues:
    """Make *issues* those of the project that *identity* names (made if it is new); Refused when it is archived."""
    project = project_service.resolve(tx, workspace_id, identity=identity, name=name, path=path)
    if project.status is ProjectStatus.ARCHIVED:
        raise Refused(f"The project {project.name} is archived", hint=f"Run: coord projects resume {project.name}")
    before = issue_service.replace(tx, workspace_id, project.id, issues)
    return ImportedIssues(project.id, project.name, len(issues), before)
