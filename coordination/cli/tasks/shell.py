"""``coord tasks shell``: opens a shell in the checkout of a task."""

from __future__ import annotations

from typing import Annotated

import typer

from coordination.cli.names import InProject, OfRun, TaskName, find_task
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
        int | None,
        typer.Option("--attempt", metavar="N", help="The attempt (default: the newest that has one).", min=1),
    ] = None,
) -> None:
    """Open a shell in the checkout of a task, with the variables of its job.

    A worktree exists while its attempt runs, and for some days after a failure. Without one it is the job's folder.
    """
    import os
    import sys

    from coordination.base.errors import Refused

    with connected() as co:
        task = find_task(co, name, run, project)
        place = task.checkout(attempt=attempt)
        home = str(co.runtime.settings.home)  # a relative path in the environment is one in the present folder
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
