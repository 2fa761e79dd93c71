"""``coord projects gates``: what must pass before work on a project counts as completed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.cli.options import AsJson, connected, print_json

if TYPE_CHECKING:
    from coordination.domain.projects.projects import Project


def gates(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project: its name, identity, alias or id.")],
    commands: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="The gates, in their order.")
    ] = None,
    *,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="How long each may take.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Take all gates away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which commands must pass before a task counts as completed; without any, show them.

    They are run for agents' tasks, and for tasks with a git worktree, of plans that are submitted from now on.
    """
    from coordination.base.durations import parse_duration, show_duration
    from coordination.base.errors import Refused
    from coordination.cli.tables import show as table
    from coordination.domain.jobs.checkouts import GATE_TIMEOUT, Gate, parse_gates
    from coordination.services.projects import projects as service

    if none and commands:
        raise Refused("Either gates or --none")
    if timeout is not None and not commands:
        raise Refused("--timeout is for the gates that are set with it", hint='Write: coord projects gates NAME "make"')
    limit = GATE_TIMEOUT if timeout is None else parse_duration(timeout)
    wanted = parse_gates([Gate(command, limit) for command in commands or []])
    with connected() as co:
        workspace_id = co.runtime.workspace_id

        def store(tx: Any) -> Project:
            found = service.find(tx, workspace_id, name)
            if wanted or none:
                value = [gate.to_json() for gate in wanted] or None
                service.amend(tx, workspace_id, found, merged={"settings": {"gates": value}})
            return service.find(tx, workspace_id, found.id)

        after = co.runtime.store.transact(store)
    held = parse_gates(after.settings.get("gates"))
    if as_json:
        print_json({"project": after.name, "gates": [gate.to_json() for gate in held]})
        return
    table(["gate", "timeout"], [(gate.called, show_duration(gate.timeout)) for gate in held], empty="No gates.")
