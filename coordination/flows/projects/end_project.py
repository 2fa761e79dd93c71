"""Complete or archive a project that has no open runs."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.projects.projects import ProjectStatus
from coordination.services.projects import projects
from coordination.store.queries.tasks import runs


def end_project(tx: Connection, workspace_id: str, project_id: str, status: ProjectStatus) -> None:
    """Move the project to completed or archived. Raises Refused while it has open runs."""
    unfinished = runs.list_unfinished(tx, workspace_id, project_id)
    if unfinished:
        raise Refused(
            f"The project still has {len(unfinished)} open runs",
            hint=f"Let them end, or cancel them: coord runs cancel {unfinished[0]}",
        )
    projects.set_status(tx, workspace_id, project_id, status)
