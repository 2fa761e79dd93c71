"""Put a project on hold, and let it go on: what waits in its queues is held back when a worker meets it."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.domain.projects.projects import ProjectStatus
from coordination.services.holds import pause
from coordination.services.projects import projects
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.projects import stops


def hold_project(tx: Connection, workspace_id: str, project_id: str) -> None:
    """Nothing of the project starts any more; what runs goes on."""
    projects.set_status(tx, workspace_id, project_id, ProjectStatus.ON_HOLD)


def resume_project(tx: Connection, workspace_id: str, project_id: str, *, actor: str) -> int:
    """The project goes on; how many tasks the pause had held and are queued again. None while a stop holds it."""
    stops.lock_workspace(tx, workspace_id, shared=True)  # one that was archived may be stopped from here on
    projects.set_status(tx, workspace_id, project_id, ProjectStatus.ACTIVE)
    stops.hold_projects(tx, workspace_id, project_id)
    project = project_rows.get(tx, workspace_id, project_id)
    if project is not None and project.stopped:
        return 0
    return pause.release(tx, workspace_id, project_id, actor=actor)
