"""``coord projects gates``: commands that must succeed before a task counts as completed."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from coordination.base.durations import parse_duration, show_duration
from coordination.base.errors import Refused
from coordination.cli.options import AsJson, open_connection, print_json
from coordination.cli.tables import show as table
from coordination.views import projects as views


def gates(
    name: Annotated[str, Argument(metavar="NAME", help="The project: its name, identity, alias or id.")],
    commands: Annotated[list[str] | None, Argument(metavar="[COMMAND]...", help="The gates, in order.")] = None,
    *,
    timeout: Annotated[str | None, Option(metavar="TIME", help="The time limit of each gate.")] = None,
    none: Annotated[bool, Option("--none", help="Remove all gates.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set the commands that must succeed before a task is completed.

    Without commands, shows them. They run for tasks of agents and tasks with a git worktree, in plans submitted later.
    """
    from coordination.domain.jobs.checkouts import GATE_TIMEOUT, Gate, parse_gates

    if none and commands:
        raise Refused("Give either gates or --none")
    if timeout is not None and not commands:
        raise Refused("--timeout needs gates", hint='Write: coord projects gates NAME "make"')
    limit = GATE_TIMEOUT if timeout is None else parse_duration(timeout)
    new_gates = parse_gates([Gate(command, limit) for command in commands or []])
    with open_connection() as co:
        project = co.projects.set_gates(name, new_gates) if new_gates or none else co.project(name)
    present = parse_gates(project.settings.get("gates"))
    if as_json:
        print_json(views.project_gates(project.name, present))
        return
    table(["gate", "timeout"], [(gate.label, show_duration(gate.timeout)) for gate in present], empty="No gates.")
