"""``coord check`` and ``coord schema``: plan files, looked at without storing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordination.cli.options import AsJson, print_json
from coordination.domain.excerpts import many


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Schemas of our files, for editors.")
    group.command("plan")(plan)
    app.add_typer(group, name="schema")
    app.command("check")(check)


def plan() -> None:
    """Print the JSON Schema of the plan file."""
    from coordination.formats.plan import plan_schema

    print_json(plan_schema())


def check(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan file (YAML).")], *, as_json: AsJson = False
) -> None:
    """Check what a plan file says, without a store: whether its agents exist is asked when it is submitted."""
    from coordination.cli.accounts import unknown_accounts
    from coordination.cli.work import read_plan_file
    from coordination.domain import graph

    found = read_plan_file(file)
    graph.check(found)
    notes = unknown_accounts(found)
    edges = sum(len(task.needs) for task in found.tasks)
    if as_json:
        print_json({"plan": str(file), "valid": True, "tasks": len(found.tasks), "dependencies": edges, "notes": notes})
    else:
        print(f"{file} is a good plan: {many(len(found.tasks), 'task')}, {many(edges, 'dependency', 'dependencies')}.")
        for note in notes:
            print(note)
