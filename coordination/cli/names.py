"""How a person names a run or a task, and which project is meant: the one that the command line stands in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coordination.errors import CoordinationError, NotFound, Refused
from coordination.ids import is_id

if TYPE_CHECKING:
    from coordination.client import Coordination, Run, TaskHandle
    from coordination.domain.projects import Project

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task: its key, or a part of its id.")]
OfRun = Annotated[
    str | None,
    typer.Option("--run", metavar="RUN", help="Of this run (default: the newest of this project that has the key)."),
]


def found_run(co: Coordination, name: str) -> Run:
    """The run of that name: of the project one stands in, or by its id; NotFound or Refused otherwise."""
    here = _project_here(co)
    return co.run(name, project=here.id if here else None)


def found_task(co: Coordination, name: str, run: str | None) -> TaskHandle:
    """The task of that name: in the run if one is given, else in the newest run of the project one stands in.

    An id names a task of any project. So does a key where no project is, if one project alone has it.
    NotFound or Refused otherwise.
    """
    if run is not None:
        return found_run(co, run).task(name)
    here = _project_here(co)
    if here is not None:
        try:
            return co.task(name, project=here.id)
        except NotFound as error:
            raise NotFound(
                f"{error.message} in the project {here.name}, which you stand in",
                hint="Name the run of another project with --run, or give the task's id; see: coord runs list",
            ) from None
    task = co.task(name)
    if task.key == name and not is_id(name):
        from coordination.store.queries import names

        with co.runtime.store.read() as tx:
            if len(names.projects_with(tx, co.runtime.workspace_id, name)) > 1:
                raise Refused(
                    f"Several projects have a task {name}",
                    hint="Stand in the project's folder, or name the run with --run; see: coord runs list",
                )
    return task


def place(co: Coordination, project_id: str, run_id: str) -> str:
    """The project and the run that a command acted on, for its answer."""
    from coordination.store.queries import projects

    with co.runtime.store.read() as tx:
        names = projects.names_of(tx, co.runtime.workspace_id, [project_id])
    return f"project {names.get(project_id, project_id)}, run {run_id}"


def place_of(co: Coordination, task: TaskHandle) -> str:
    """The project and the run of a task."""
    return place(co, task.record.project_id, task.record.run_id)


def _project_here(co: Coordination) -> Project | None:
    from coordination import checkout
    from coordination.store.queries import projects

    try:
        here = checkout.here()
    except CoordinationError:
        return None  # a folder that is gone, or may not be looked at
    with co.runtime.store.read() as tx:
        return projects.by_identity(tx, co.runtime.workspace_id, here.identity)
