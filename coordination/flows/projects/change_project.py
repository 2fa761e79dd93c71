"""Change a project's settings, and queue held tasks again that this may release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from coordination.domain.projects.projects import Project
from coordination.services import holds
from coordination.services.projects import projects


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
    """Change the project as ``services.projects.amend`` does. Return how many held tasks are queued again."""
    changes = merged or {}
    holds.check_settings(changes.get("settings", {}))
    projects.amend(tx, workspace_id, project, name=name, description=description, merged=changes)
    if not changes.get("settings") and not changes.get("model_restrictions"):
        return 0
    return holds.lift_setting_holds(tx, workspace_id, project.id, actor=actor)
