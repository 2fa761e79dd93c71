"""Find projects by identity or alias, create them, and move them between statuses by the table of moves."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from sqlalchemy import Connection

from coordination.base.errors import IllegalMove, NotFound, Refused
from coordination.base.ids import new_id
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.access.authority import DELEGATES, check_delegates
from coordination.domain.agents.prompts import KINDS, PROJECT_SETTING, PROJECT_TEXTS, check_prompt_template
from coordination.domain.fleet.supervisor_settings import SUPERVISOR, parse_supervisor_settings
from coordination.domain.jobs.checkouts import parse_gates
from coordination.domain.plans.graph import check_name
from coordination.domain.plans.plan_expansion import ANSWERER, check_supervisor, supervision_of
from coordination.domain.projects.model_policy import parse_restrictions
from coordination.domain.projects.projects import MOVES, Project, ProjectStatus
from coordination.store.queries.projects import projects as rows
from coordination.store.queries.projects import stops

SETTINGS = ("gates", "supervision", ANSWERER, SUPERVISOR, DELEGATES, PROJECT_SETTING, *PROJECT_TEXTS)
"""The keys of a project's settings, without those that holds read."""


def resolve(tx: Connection, workspace_id: str, *, identity: str, name: str, path: str | None) -> Project:
    """Return the project that *identity* names, created if new. Its path is updated to where it was last used."""
    project = rows.find_by_identity(tx, workspace_id, identity)
    if project is not None:
        if path is not None and path != project.path:
            rows.change(tx, workspace_id, project.id, path=path)
        return project
    stops.lock_workspace(tx, workspace_id, shared=True)
    created = rows.get_or_create(
        tx,
        workspace_id,
        {
            "id": new_id(),
            "name": name,
            "identity": identity,
            "path": path,
            "status": ProjectStatus.PLANNING,
            **{column: {} for column in ("settings", "budgets", "model_restrictions", "metadata")},
        },
    )
    stops.mark_projects(tx, workspace_id, created.id)
    return created


def create(tx: Connection, workspace_id: str, *, identity: str, name: str, path: str | None) -> Project:
    """Create a project. Raises Refused when another one has the identity."""
    _check_name(name)
    existing = rows.find_by_identity(tx, workspace_id, identity)
    if existing is not None:
        hint = f"See: coord projects show {shlex.quote(existing.name)}"
        raise Refused(f"{identity} already is the project {existing.name}", hint=hint)
    return resolve(tx, workspace_id, identity=identity, name=name, path=path)


def require_not_archived(project: Project) -> None:
    """Raise Refused with the command that resumes an archived project."""
    if project.status is ProjectStatus.ARCHIVED:
        hint = f"Run: coord projects resume {shlex.quote(project.name)}"
        raise Refused(f"The project {project.name} is archived", hint=hint)


def amend(
    tx: Connection,
    workspace_id: str,
    project: Project,
    *,
    name: str | None = None,
    description: str | None = None,
    merged: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Change a project's name, description or values. *merged*: keys to set by column; None deletes a key.

    Columns: settings, model_restrictions, metadata. Raises Refused for invalid gates, settings or restrictions.
    """
    parse_gates((merged or {}).get("settings", {}).get("gates"))
    values: dict[str, Any] = {}
    if name is not None:
        if not name.strip():
            raise Refused("A project's name cannot be empty", field="name")
        _check_name(name.strip())
        values["name"] = name.strip()
    if description is not None:
        values["description"] = description or None
    for column, changes in (merged or {}).items():
        if changes:
            if column == "settings":
                _check_settings(changes)
            after = {**getattr(project, column), **changes}
            values[column] = {key: value for key, value in after.items() if value is not None}
            if column == "model_restrictions":
                parse_restrictions(values[column])
    if values:
        rows.change(tx, workspace_id, project.id, **values)


def check_keys(settings: Mapping[str, Any], more: Iterable[str]) -> None:
    """Refuse settings that nothing reads: other keys than SETTINGS and *more*. None may remove any key."""
    known = (*SETTINGS, *more)
    for key, value in settings.items():
        if key not in known and value is not None:
            hint = did_you_mean(key, known) or f"It may have {', '.join(known)}; other data belongs in its metadata"
            raise Refused(f"A project has no setting {excerpt(key)}", hint=hint, field=key)


def _check_name(name: str) -> None:
    """Refuse a name that a plan could not contain either, such as a text with line breaks."""

    def refuse(message: str, hint: str | None = None, *, field: str | None = None) -> NoReturn:
        raise Refused(message, hint=hint, field=field)

    check_name(refuse, "A project's name", name, field="name")


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse invalid prompts, delegates, supervisor settings and supervising agents."""
    _check_words(settings.get(PROJECT_SETTING))
    if (delegates := settings.get(DELEGATES)) is not None:
        check_delegates(delegates)
    if (supervisor := settings.get(SUPERVISOR)) is not None:
        parse_supervisor_settings(supervisor)
    if (answerer := settings.get(ANSWERER)) is not None:
        check_supervisor(answerer, ANSWERER)
    if isinstance(agents := settings.get("supervision"), Mapping):
        supervision_of(agents)
    elif agents is not None:
        raise Refused("supervision maps assess and analyze to agents")


def _check_words(words: object) -> None:
    """Refuse invalid prompts."""
    if words is None:
        return
    if not isinstance(words, Mapping):
        raise Refused(f"{PROJECT_SETTING} maps {', '.join(KINDS)} to the words of a prompt")
    for kind, text in words.items():
        if not isinstance(text, str):
            raise Refused(f"The words of a prompt are a text, not {type(text).__name__}")
        check_prompt_template(str(kind), text)


def find(tx: Connection, workspace_id: str, name: str) -> Project:
    """Return the project of that name, identity, alias or id. Raises NotFound, or Refused when several fit."""
    matches = rows.find_by_name(tx, workspace_id, name)
    if not matches:
        raise NotFound(f"There is no project {excerpt(name)}", hint="See: coord projects list")
    if len(matches) > 1:
        raise Refused(
            f"Several projects are called {excerpt(name)}", hint="Use the identity or the id: coord projects list"
        )
    return matches[0]


def activate(tx: Connection, workspace_id: str, project: Project) -> None:
    """Move a planning or completed project to active, because work was submitted. A paused one stays paused."""
    if project.status in (ProjectStatus.PLANNING, ProjectStatus.COMPLETED):
        set_status(tx, workspace_id, project.id, ProjectStatus.ACTIVE)


def set_status(tx: Connection, workspace_id: str, project_id: str, target: ProjectStatus) -> None:
    """Move the project to *target*. Raises IllegalMove when the table has no such move. Stops stay."""
    if rows.change_status(tx, workspace_id, project_id, sources=MOVES[target], target=target):
        return
    project = rows.get(tx, workspace_id, project_id)
    if project is None:
        raise NotFound(f"There is no project {project_id}")
    if project.status is not target:
        raise IllegalMove(f"become {target}", project.status, what="project")


def rename_remote(tx: Connection, workspace_id: str, project: Project, identity: str) -> None:
    """Add *identity* as an alias, because the project's remote was renamed or moved."""
    other = rows.find_by_identity(tx, workspace_id, identity)
    if other is not None and other.id != project.id and other.identity == identity:
        raise Refused(f"{identity} is the identity of the project {other.name}")
    rows.add_alias(tx, workspace_id, project.id, identity)
