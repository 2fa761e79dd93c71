"""``coord tasks shell``: opens a shell in the folder of a task."""

from __future__ import annotations

from typing import Annotated

import typer

from coordination.cli.names import InProject, OfRun, TaskName, found_task
from coordination.cli.options import connected

Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- COMMAND...]", help="Run this instead of a shell.", show_default=False),
]


def shell(
    name: TaskName,
    command: Command = None,
    *,
    run: OfRun = None,
    project: InProject = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", help="Which (default: the newest that has one).", min=1)
    ] = None,
) -> None:
    """Open a shell in the worktree of a task, with the variables of its job.

    A worktree is there while its attempt runs, and for some days after a failure. A task without one has its folder.
    """
    import os
    import sys

    from coordination.base.errors import Refused

    with connected() as co:
        task = found_task(co, name, run, project)
        place = task.checkout(attempt=attempt)
        home = str(co.runtime.settings.home)  # what the environment names may begin at the folder that is left here
    arguments = command or [os.environ.get("SHELL") or "/bin/sh"]
    if command is None:
        whose = "" if place.attempt is None else f" of attempt {place.attempt}"
        lives = ", which is running" if place.running else ""
        print(f"{task.key}: {place.path}{whose}{lives}. Leave with: exit", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        environment = {**os.environ, "COORD_HOME": home, **place.variables, "COORD_TASK_KEY": task.key}
        os.chdir(place.path)
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606
    except OSError as error:
        raise Refused(f"{arguments[0]} cannot be started in {place.path}: {error.strerror}") from None
