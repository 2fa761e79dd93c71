"""``coord projects gates``: commands that must succeed before a task counts as completed."""

from __future__ import annotations

from typing import Annotated

import typer

from coordination.cli.options import AsJson, connected, print_json
from coordination.views import projects as views


def gates(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project: its name, identity, alias or id.")],
    commands: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="The gates, in order.")] = None,
    *,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="The time limit of each.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove all gates.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set the commands that must succeed before a task counts as completed; without any, show them.

    They run for tasks of agents and tasks with a git worktree, in plans submitted from now on.
    """
    from coordination.base.durations import parse_duration, show_duration
    from coordination.base.errors import Refused
    from coordination.cli.tables import show as table
    from coordination.domain.jobs.checkouts import GATE_TIMEOUT, Gate, parse_gates

    if none and commands:
        raise Refused("Give either gates or --none")
    if timeout is not None and not commands:
        raise Refused("--timeout needs gates", hint='Write: coord projects gates NAME "make"')
    limit = GATE_TIMEOUT if timeout is None else parse_duration(timeout)
    wanted = parse_gates([Gate(command, limit) for command in commands or []])
    with connected() as co:
        after = co.projects.set_gates(name, wanted) if wanted or none else co.project(name)
    gates_now = parse_gates(after.settings.get("gates"))
    if as_json:
        print_json(views.project_gates(after.name, gates_now))
        return
    table(["gate", "timeout"], [(gate.called, show_duration(gate.timeout)) for gate in gates_now], empty="No gates.")
