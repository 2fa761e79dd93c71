"""Projects: found by identity or alias, made when new, moved between statuses by the one table of moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from sqlalchemy import Connection

from coordination.base.errors import IllegalMove, NotFound, Refused
from coordination.base.ids import new_id
from coordination.base.wording import excerpt
from coordination.domain.access.authority import DELEGATES, check_delegates
from coordination.domain.agents.prompts import KINDS, PROJECT_SETTING, check_words
from coordination.domain.fleet.supervisor_settings import SUPERVISOR, supervisor_settings
from coordination.domain.jobs.checkouts import parse_gates
from coordination.domain.plans.plan_expansion import ANSWERER, check_supervisor, supervision_of
from coordination.domain.plans.plan_values import check_name
from coordination.domain.projects.model_policy import parse_restrictions
from coordination.domain.projects.projects import MOVES, Project, ProjectStatus
from coordination.store.queries.projects import projects as rows
from coordination.store.queries.projects import stops


def resolve(tx: Connection, workspace_id: str, *, identity: str, name: str, path: str | None) -> Project:
    """The project that *identity* names, made if it is new; its path follows where it was last used from."""
    found = rows.by_identity(tx, workspace_id, identity)
    if found is not None:
        if path is not None and path != found.path:
            rows.change(tx, workspace_id, found.id, path=path)
        return found
    stops.lock_workspace(tx, workspace_id, shared=True)
    made = rows.make(
        tx,
        workspace_id,
        {
            "id": new_id(),
            "name": name,
            "identity": identity,
            "path": path,
            "status": ProjectStatus.PLANNING,
            "settings": {},
            "budgets": {},
            "model_restrictions": {},
            "metadata": {},
        },
    )
    stops.hold_projects(tx, workspace_id, made.id)
    return made


def create(tx: Connection, workspace_id: str, *, identity: str, name: str, path: str | None) -> Project:
    """A project that was not there before; Refused when another one has the identity."""
    _check_name(name)
    taken = rows.by_identity(tx, workspace_id, identity)
    if taken is not None:
        raise Refused(f"{identity} already is the project {taken.name}", hint=f"See: coord projects show {taken.name}")
    return resolve(tx, workspace_id, identity=identity, name=name, path=path)


def amend(
    tx: Connection,
    workspace_id: str,
    project: Project,
    *,
    name: str | None = None,
    description: str | None = None,
    merged: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Change what a person says of a project. *merged*: column -> keys to set; a key set to None goes away.

    Columns: settings, model_restrictions, metadata. Refused for gates that could not be run, and for
    restrictions that could not be understood.
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


def _check_name(name: str) -> None:
    """Refuse what a plan could not name it either: a line that is none, or has no end."""

    def refuse(message: str, hint: str | None = None, *, field: str | None = None) -> NoReturn:
        raise Refused(message, hint=hint, field=field)

    check_name(refuse, "A project's name", name, field="name")


def _check_settings(changes: Mapping[str, Any]) -> None:
    """Refuse words that could not be used, and agents that could not look at the tasks of others, or answer them."""
    _check_words(changes.get(PROJECT_SETTING))
    if (delegates := changes.get(DELEGATES)) is not None:
        check_delegates(delegates)
    if (supervisor := changes.get(SUPERVISOR)) is not None:
        supervisor_settings(supervisor)
    if (answerer := changes.get(ANSWERER)) is not None:
        check_supervisor(answerer, ANSWERER)
    if isinstance(who := changes.get("supervision"), Mapping):
        supervision_of(who)
    elif who is not None:
        raise Refused("supervision maps assess and analyze to agents")


def _check_words(words: object) -> None:
    """Refuse prompts that could not be used."""
    if words is None:
        return
    if not isinstance(words, Mapping):
        raise Refused(f"{PROJECT_SETTING} maps {', '.join(KINDS)} to the words of a prompt")
    for kind, text in words.items():
        if not isinstance(text, str):
            raise Refused(f"The words of a prompt are a text, not {type(text).__name__}")
        check_words(str(kind), text)


def find(tx: Connection, workspace_id: str, name: str) -> Project:
    """The project of that name, identity, alias or id; NotFound, or Refused when the name fits several."""
    found = rows.named(tx, workspace_id, name)
    if not found:
        raise NotFound(f"There is no project {excerpt(name)}", hint="See: coord projects list")
    if len(found) > 1:
        raise Refused(
            f"Several projects are called {excerpt(name)}", hint="Use the identity or the id: coord projects list"
        )
    return found[0]


def activate(tx: Connection, workspace_id: str, project: Project) -> None:
    """Work has arrived: planning or completed becomes active. A project on hold stays on hold."""
    if project.status in (ProjectStatus.PLANNING, ProjectStatus.COMPLETED):
        set_status(tx, workspace_id, project.id, ProjectStatus.ACTIVE)


def set_status(tx: Connection, workspace_id: str, project_id: str, target: ProjectStatus) -> None:
    """Move the project to *target*; IllegalMove when the table has no such move. A stop that holds it goes on."""
    if rows.move(tx, workspace_id, project_id, sources=MOVES[target], target=target):
        return
    found = rows.get(tx, workspace_id, project_id)
    if found is None:
        raise NotFound(f"There is no project {project_id}")
    if found.status is not target:
        raise IllegalMove(f"become {target}", found.status, what="project")


def rename_remote(tx: Connection, workspace_id: str, project: Project, identity: str) -> None:
    """Let another identity name this project too: its remote was renamed or moved."""
    other = rows.by_identity(tx, workspace_id, identity)
    if other is not None and other.id != project.id and other.identity == identity:
        raise Refused(f"{identity} is the identity of the project {other.name}")
    rows.add_alias(tx, workspace_id, project.id, identity)
