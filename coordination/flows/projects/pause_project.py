"""Pause and resume a project: workers do not claim the queued tasks of a paused one."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.domain.projects.projects import ProjectStatus
from coordination.services.holds import pause
from coordination.services.projects import projects
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.projects import stops


def pause_project(tx: Connection, workspace_id: str, project_id: str) -> None:
    """Pause the project: running jobs continue, and none starts."""
    projects.set_status(tx, workspace_id, project_id, ProjectStatus.ON_HOLD)


def resume_project(tx: Connection, workspace_id: str, project_id: str, *, actor: str) -> int:
    """Resume the project. Return how many paused tasks are queued again: none while a stop covers it."""
    # Stops do not cover archived projects: this one may be covered from here on.
    stops.lock_workspace(tx, workspace_id, shared=True)
    projects.set_status(tx, workspace_id, project_id, ProjectStatus.ACTIVE)
    stops.mark_projects(tx, workspace_id, project_id)
    project = project_rows.get(tx, workspace_id, project_id)
    if project is not None and project.stopped:
        return 0
    return pause.lift_pause(tx, workspace_id, project_id, actor=actor)
