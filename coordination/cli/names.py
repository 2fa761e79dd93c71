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
InProject = Annotated[
    str | None,
    typer.Option("--project", "-p", metavar="NAME", help="Of this project (default: the one you stand in)."),
]


def found_run(co: Coordination, name: str, project: str | None = None) -> Run:
    """The run of that name: of the project that is given or that one stands in, or by its id.

    NotFound, or Refused where several are meant.
    """
    run = co.run(name, project=project)
    aim_hints(co, run.record.project_id)
    return run


def found_task(co: Coordination, name: str, run: str | None, project: str | None = None) -> TaskHandle:
    """The task of that name: in the run if one is given, else in the newest run of the project that is given or that
    one stands in.

    An id names a task of any project. So does a key where no project is, if one project alone has it.
    NotFound, or Refused where several are meant.
    """
    if run is not None:
        return found_run(co, run, project).task(name)
    task = co.task(name, project=project)
    aim_hints(co, task.record.project_id)
    return task


def aim_hints(co: Coordination, project_id: str) -> None:
    """Let the commands that are printed from now on find what is of this project, whose folder may be another one."""
    from coordination.cli import hints
    from coordination.store.queries.projects import projects

    with co.runtime.store.read() as tx:
        found = projects.get(tx, co.runtime.workspace_id, project_id)
    if found is not None and found.path is not None:
        hints.about(found.path, found.identity)


def newest_run(co: Coordination, project: str | None) -> Run:
    """The newest run of the project that is given, that one stands in, or that alone is there.

    NotFound where it has none, Refused with the commands where several projects may be meant.
    """
    from coordination.base.errors import Ambiguous, NotFound
    from coordination.client import Run
    from coordination.lookups import project_here
    from coordination.store.queries.projects import projects
    from coordination.store.reports.tasks import task_list

    runtime = co.runtime
    meant = co.project(project) if project is not None else project_here(runtime)
    with runtime.store.read() as tx:
        if meant is None:
            known = [one for one in projects.listed(tx, runtime.workspace_id) if one.status != "archived"]
            if len(known) > 1:
                names = [one.name for one in known]
                raise Ambiguous("Several projects have runs", choices=[("", ["--project", one]) for one in names])
            if not known:
                raise NotFound("There are no runs yet", hint="Start one with: coord run PLAN")
            meant = known[0]
        found = task_list.newest_run(tx, runtime.workspace_id, meant.id)
    if found is None:
        raise NotFound(f"The project {meant.name} has no run", hint="Start one with: coord run PLAN")
    return Run(co, found)


def place(co: Coordination, project_id: str, run_id: str) -> str:
    """The project and the run that a command acted on, for its answer."""
    from coordination.store.queries.projects import projects

    with co.runtime.store.read() as tx:
        names = projects.names_of(tx, co.runtime.workspace_id, [project_id])
    return f"project {names.get(project_id, project_id)}, run {run_id}"


def place_of(co: Coordination, task: TaskHandle) -> str:
    """The project and the run of a task."""
    return place(co, task.record.project_id, task.record.run_id)
