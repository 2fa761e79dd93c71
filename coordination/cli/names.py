"""How a person names a run or a task, and which project is meant: the one that the command line stands in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coordination.client import Coordination, Run, TaskHandle

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task: its key, or a part of its id.")]
OfRun = Annotated[
    str | None,
    typer.Option("--run", metavar="RUN", help="Of this run (default: the newest of this project that has the key)."),
]


def found_run(co: Coordination, name: str) -> Run:
    """The run of that name: of the project one stands in, or by its id; NotFound or Refused otherwise."""
    run = co.run(name)
    aim_hints(co, run.record.project_id)
    return run


def found_task(co: Coordination, name: str, run: str | None) -> TaskHandle:
    """The task of that name: in the run if one is given, else in the newest run of the project one stands in.

    An id names a task of any project. So does a key where no project is, if one project alone has it.
    NotFound or Refused otherwise.
    """
    if run is not None:
        return found_run(co, run).task(name)
    task = co.task(name)
    aim_hints(co, task.record.project_id)
    return task


def aim_hints(co: Coordination, project_id: str) -> None:
    """Let the commands that are printed from now on find what is of this project, whose folder may be another one."""
    from coordination.cli import hints
    from coordination.store.queries import projects

    with co.runtime.store.read() as tx:
        found = projects.get(tx, co.runtime.workspace_id, project_id)
    if found is not None and found.path is not None:
        hints.about(found.path, found.identity)


def place(co: Coordination, project_id: str, run_id: str) -> str:
    """The project and the run that a command acted on, for its answer."""
    from coordination.store.queries import projects

    with co.runtime.store.read() as tx:
        names = projects.names_of(tx, co.runtime.workspace_id, [project_id])
    return f"project {names.get(project_id, project_id)}, run {run_id}"


def place_of(co: Coordination, task: TaskHandle) -> str:
    """The project and the run of a task."""
    return place(co, task.record.project_id, task.record.run_id)
