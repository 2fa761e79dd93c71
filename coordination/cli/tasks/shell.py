"""``coord tasks shell``: opens a shell in the checkout of a task."""

from __future__ import annotations

import os
from typing import Annotated

from typer import Argument, Option

from coordination.base.errors import Refused
from coordination.cli.names import OfRun, TaskName, find_task
from coordination.cli.options import ProjectName, open_connection

Command = Annotated[
    list[str] | None, Argument(metavar="[-- COMMAND...]", help="Run this instead of a shell.", show_default=False)
]


def shell(
    name: TaskName,
    command: Command = None,
    *,
    run: OfRun = None,
    project: ProjectName = None,
    attempt: Annotated[
        int | None, Option(metavar="N", help="The attempt (default: the newest that has one).", min=1)
    ] = None,
) -> None:
    """Open a shell in the checkout of a task, with the variables of its job.

    A worktree exists while its attempt runs, and for some days after a failure. Without one, the job's folder is used.
    """
    import sys

    with open_connection() as co:
        task = find_task(co, name, run, project)
        checkout = task.checkout(attempt=attempt)
        home = str(co.runtime.settings.home)  # a relative COORD_HOME would change its meaning in another folder
    arguments = command or [os.environ.get("SHELL") or "/bin/sh"]
    if command is None:
        owner = "" if checkout.attempt is None else f" of attempt {checkout.attempt}"
        state = ", which is running" if checkout.running else ""
        print(f"{task.key}: {checkout.path}{owner}{state}. Leave with: exit", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        environment = {**os.environ, "COORD_HOME": home, **checkout.variables, "COORD_TASK_KEY": task.key}
        os.chdir(checkout.path)
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606
    except OSError as error:
        raise Refused(f"{arguments[0]} cannot be started in {checkout.path}: {error.strerror}") from None
