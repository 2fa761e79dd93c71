"""What people call runs and tasks: a key, a name, an id, or a part of one that fits nothing else."""

from __future__ import annotations

from coordination.domain.excerpts import excerpt
from coordination.domain.tasks import Task
from coordination.errors import NotFound, Refused
from coordination.ids import SHORTEST_PART
from coordination.runtime import Runtime
from coordination.store.queries import names


def find_run(runtime: Runtime, name: str, *, project_id: str | None = None) -> str:
    """The id of the run with that id, name (the newest, of the project if one is given), or unique part of an id.

    NotFound, or Refused for what names none, or several.
    """
    _check(name, "run")
    with runtime.store.read() as tx:
        found = names.find_runs(tx, runtime.workspace_id, name, project_id=project_id)
    if not found:
        raise NotFound(f"There is no run {excerpt(name)}", hint="See: coord runs list")
    if len(found) > 1:
        raise _ambiguous(name, "runs", found, "See: coord runs list")
    return found[0]


def find_task(runtime: Runtime, name: str, *, run_id: str | None = None, project_id: str | None = None) -> Task:
    """The task with that id, key (of the newest run, of the project if one is given), or unique part of an id.

    NotFound, or Refused for what names none, or several.
    """
    _check(name, "task")
    with runtime.store.read() as tx:
        found = names.find_tasks(tx, runtime.workspace_id, name, run_id=run_id, project_id=project_id)
    if not found:
        raise NotFound(
            f"The run {run_id} has no task {excerpt(name)}" if run_id else f"There is no task {excerpt(name)}",
            hint=f"See: coord tasks list {run_id or 'RUN'}",
        )
    if len(found) > 1:
        raise _ambiguous(name, "tasks", [task.id for task in found], "See: coord tasks list RUN")
    return found[0]


def _check(name: str, what: str) -> None:
    if not name.strip():
        raise Refused(
            f"An empty name names no {what}", hint=f"Give its id, or the start of it: {SHORTEST_PART} letters or more"
        )


def _ambiguous(name: str, what: str, ids: list[str], hint: str) -> Refused:
    return Refused(
        f"{excerpt(name)} names several {what}, such as {ids[0]} and {ids[1]}", hint=f"Give more of the id. {hint}"
    )
