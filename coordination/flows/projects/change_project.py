"""Change, end, pause and resume a project; queue held tasks again that this may release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.projects.projects import Project, ProjectStatus
from coordination.services import holds
from coordination.services.holds import pause
from coordination.services.projects import projects
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.projects import stops
from coordination.store.queries.tasks import runs


def change_project(
    tx: Connection,
    workspace_id: str,
    project: Project,
    *,
    actor: str,
    name: str | None = None,
    description: str | None = None,
    merged: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Change the project as ``services.projects.amend`` does. Return how many held tasks are queued again.

    Raises Refused for settings that nothing reads.
    """
    changes = merged or {}
    projects.check_keys(changes.get("settings", {}), holds.SETTINGS)
    holds.check_settings(changes.get("settings", {}))
    projects.amend(tx, workspace_id, project, name=name, description=description, merged=changes)
    if not changes.get("settings") and not changes.get("model_restrictions"):
        return 0
    return holds.lift_setting_holds(tx, workspace_id, project.id, actor=actor)


def end_project(tx: Connection, workspace_id: str, project_id: str, status: ProjectStatus) -> None:
    """Move the project to completed or archived. Raises Refused while it has open runs."""
    unfinished = runs.list_unfinished(tx, workspace_id, project_id)
    if unfinished:
        raise Refused(
            f"The project still has {len(unfinished)} open runs",
            hint=f"Let them end, or cancel them: coord runs cancel {unfinished[0]}",
        )
    projects.set_status(tx, workspace_id, project_id, status)


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
