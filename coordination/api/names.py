"""Finds projects, runs and tasks by name: a key, a name, an id, or a unique part of an id.

An id names a run or a task of the whole workspace. Everything else is searched in the given project, or in that of the
current folder. Without a project, only one project may have a match.
"""

from __future__ import annotations

from coordination.adapters import git_checkout
from coordination.base.errors import Ambiguous, CoordinationError, NotFound, Refused
from coordination.base.ids import SHORT, SHORTEST_PART, is_id
from coordination.base.wording import excerpt
from coordination.domain.projects.projects import Project
from coordination.domain.tasks.tasks import TaskRecord
from coordination.runtime import Runtime
from coordination.services.projects import projects as project_service
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import names

_ELSEWHERE = "Give its id, or its project or run; see: coord runs list"


def find_project(runtime: Runtime, name: str) -> Project:
    """Return the project of that name, identity, alias or id. Raises NotFound, or Refused when it fits several."""
    return runtime.read(project_service.find, name)


def find_project_id(runtime: Runtime, name: str | None) -> str | None:
    """Return the id of the project of that name, identity, alias or id; None for None."""
    return None if name is None else find_project(runtime, name).id


def find_run(runtime: Runtime, name: str, *, project_id: str | None = None) -> str:
    """Return the id of the run with that id, name (the newest of the project), or unique part of an id.

    *project_id*: the project; None: that of the current folder. Raises NotFound, or Ambiguous for several matches.
    """
    _check(name, "run")
    here = None if project_id is not None or is_id(name) else project_of_current_folder(runtime)
    with runtime.store.read() as tx:
        ids = names.find_runs(tx, runtime.workspace_id, name, project_id=here.id if here else project_id)
        owners: list[str] = []
        if here is None and project_id is None and not is_id(name):
            owners = names.projects_with_run(tx, runtime.workspace_id, name)
    _require_single(runtime, "run", name, ids, owners=owners, here=here)
    return ids[0]


def find_task(runtime: Runtime, name: str, *, run_id: str | None = None, project_id: str | None = None) -> TaskRecord:
    """Return the task with that id, key (of the newest run of the project that has it), or unique part of an id.

    *run_id*, *project_id*: only in that run or project; without both, in the project of the current folder.
    Raises NotFound, or Ambiguous for several matches.
    """
    _check(name, "task")
    anywhere = run_id is None and project_id is None and not is_id(name)
    here = project_of_current_folder(runtime) if anywhere else None
    with runtime.store.read() as tx:
        matches = names.find_tasks(
            tx, runtime.workspace_id, name, run_id=run_id, project_id=here.id if here else project_id
        )
        owners = names.projects_with_task(tx, runtime.workspace_id, name) if anywhere and here is None else []
    if not matches and run_id is not None:
        raise NotFound(f"The run {run_id} has no task {excerpt(name)}", hint=f"See: coord tasks list {run_id}")
    _require_single(runtime, "task", name, [task.id for task in matches], owners=owners, here=here)
    return matches[0]


def project_of_current_folder(runtime: Runtime) -> Project | None:
    """Return the project of the current folder, if the workspace has it."""
    try:
        here = git_checkout.checkout_of()
    except (CoordinationError, OSError):
        return None  # the folder does not exist any more, or cannot be read
    return runtime.read(projects.find_by_identity, here.identity)


def _check(name: str, what: str) -> None:
    if not name.strip():
        raise Refused(f"The name of the {what} is empty", hint=f"Give its id, or {SHORTEST_PART} or more letters of it")


def _require_single(
    runtime: Runtime, what: str, name: str, ids: list[str], *, owners: list[str], here: Project | None
) -> None:
    """Raise NotFound when no id matches the name, and Ambiguous when several do or several projects own a match."""
    see = f"See: coord {what}s list"
    if not ids:
        where = f" in the project {here.name} of the current folder" if here else ""
        raise NotFound(f"There is no {what} {excerpt(name)}{where}", hint=_ELSEWHERE if here else see)
    if len(owners) > 1:
        project_names = runtime.read(projects.names_of, owners)
        choices = [(name, [name, "--project", project_names[id_]]) for id_ in owners if id_ in project_names]
        raise Ambiguous(f"Several projects have a {what} {excerpt(name)}", hint=_ELSEWHERE, choices=choices)
    if len(ids) > 1:
        raise Ambiguous(
            f"{excerpt(name)} matches several {what}s, such as {ids[0]} and {ids[1]}",
            hint=f"Give more of the id. {see}",
            choices=[(name, [id_[-SHORT:]]) for id_ in ids],
        )
