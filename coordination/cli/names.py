"""Finds the runs and tasks that arguments name: in the given project, or in that of the current folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.api.runs import Run
    from coordination.api.tasks import TaskHandle

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task: its key, or a part of its id.")]
OfRun = Annotated[
    str | None,
    typer.Option("--run", metavar="RUN", help="The task's run (default: the newest of the project that has the key)."),
]
InProject = Annotated[
    str | None,
    typer.Option("--project", "-p", metavar="NAME", help="The project (default: that of the current folder)."),
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


def aim_hints(co: Coordination, project_id: str) -> None:
    """Make the commands in later output work for this project, whose folder may be another one."""
    from coordination.cli import hints
    from coordination.store.queries.projects import projects

    with co.runtime.store.read() as tx:
        project = projects.get(tx, co.runtime.workspace_id, project_id)
    if project is not None and project.path is not None:
        hints.about(project.path, project.identity)


def newest_run(co: Coordination, project: str | None) -> Run:
    """Return the newest run of the given project, that of the current folder, or the only one.

    Raises NotFound where there is none, and Ambiguous with the commands where several projects match.
    """
    from coordination.api.names import project_here
    from coordination.api.runs import Run
    from coordination.base.errors import Ambiguous, NotFound
    from coordination.store.queries.projects import projects
    from coordination.store.reports.tasks import task_list

    runtime = co.runtime
    owner = co.project(project) if project is not None else project_here(runtime)
    with runtime.store.read() as tx:
        if owner is None:
            active = [one for one in projects.list_projects(tx, runtime.workspace_id) if one.status != "archived"]
            if len(active) > 1:
                names = [one.name for one in active]
                raise Ambiguous("Several projects have runs", choices=[("", ["--project", one]) for one in names])
            if not active:
                raise NotFound("There are no runs yet", hint="Start one with: coord run PLAN")
            owner = active[0]
        run_id = task_list.newest_run(tx, runtime.workspace_id, owner.id)
    if run_id is None:
        raise NotFound(f"The project {owner.name} has no run", hint="Start one with: coord run PLAN")
    return Run(runtime, run_id)


def place(run: Run) -> str:
    """Return the project and the run on which a command acted, for its answer."""
    return f"project {run.record.project}, run {run.id}"


def place_of(task: TaskHandle) -> str:
    """Return the project and the run of a task."""
    from coordination.api.runs import Run

    return place(Run(task.runtime, task.record.run_id))
