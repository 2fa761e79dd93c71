"""Finds runs and tasks by the names in arguments: in the given project, or in that of the current folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from coordination.base.errors import Ambiguous, NotFound
from coordination.cli import hints
from coordination.cli.options import open_connection

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.api.runs import Run
    from coordination.api.tasks import TaskHandle

TaskName = Annotated[str, Argument(metavar="TASK", help="The task: its key, or a part of its id.")]
OfRun = Annotated[
    str | None,
    Option("--run", metavar="RUN", help="The task's run (default: the newest of the project that has the key)."),
]


def find_run(co: Coordination, name: str, project: str | None = None) -> Run:
    """Return the run of that id or name, in the given project or that of the current folder.

    Raises NotFound, or Ambiguous where several match.
    """
    run = co.run(name, project=project)
    aim_hints(co, run.record.project_id)
    return run


def find_task(co: Coordination, name: str, run: str | None, project: str | None = None) -> TaskHandle:
    """Return the task of that id or key, in *run* or in the newest run of the project that has the key.

    An id names a task of any project. Outside of a project, so does a key that only one project has.
    Raises NotFound, or Ambiguous where several match.
    """
    if run is not None:
        return find_run(co, run, project).task(name)
    task = co.task(name, project=project)
    aim_hints(co, task.record.project_id)
    return task


@contextmanager
def open_task(name: str, run: str | None, project: str | None = None) -> Iterator[TaskHandle]:
    """Connect to the store, and find a task there by ``find_task``."""
    with open_connection() as co:
        yield find_task(co, name, run, project)


def aim_hints(co: Coordination, project_id: str) -> None:
    """Make the commands in later output work for this project, whose folder may be another one."""
    project = co.project(project_id)
    if project.path is not None:
        hints.set_project(project.path, project.identity)


def newest_run(co: Coordination, project: str | None) -> Run:
    """Return the newest run of the given project, of that of the current folder, or of the only project.

    Raises NotFound where there is no run, and Ambiguous with commands where several projects match.
    """
    from coordination.api.names import project_of_current_folder
    from coordination.api.runs import Run
    from coordination.store.reports.tasks import task_list

    runtime = co.runtime
    owner = co.project(project) if project is not None else project_of_current_folder(runtime)
    if owner is None:
        active = co.projects.list()
        if len(active) > 1:
            choices = [("", ["--project", each.name]) for each in active]
            raise Ambiguous("Several projects have runs", choices=choices)
        if not active:
            raise NotFound("There are no runs yet", hint="Start one with: coord run PLAN")
        owner = active[0]
    run_id = runtime.read(task_list.newest_run, owner.id)
    if run_id is None:
        raise NotFound(f"The project {owner.name} has no run", hint="Start one with: coord run PLAN")
    return Run(runtime, run_id)


def place(run: Run) -> str:
    """Return the project and the run on which a command acted, in words."""
    return f"project {run.record.project}, run {run.id}"


def place_of(task: TaskHandle) -> str:
    """Return the project and the run of a task, in words."""
    from coordination.api.runs import Run

    return place(Run(task.runtime, task.record.run_id))
