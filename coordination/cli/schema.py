"""``coord check`` and ``coord schema``: plan files, looked at without storing anything."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from coordination.base.wording import plural
from coordination.cli.options import AsJson, print_json


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
    """Check what a plan file says, without a store: whether its agents exist is asked when it is submitted.

    Warns of agents that may work in one folder at the same time, and of programs, keys and accounts that are not here;
    exit code 0 all the same, because the workers may have them.
    """
    import os
    import shutil

    from coordination.cli.accounts import unknown_accounts
    from coordination.cli.work import read_plan_file
    from coordination.domain.plans import graph
    from coordination.domain.plans.plan_warnings import warnings_of

    found = read_plan_file(file)
    graph.check(found)
    warnings = [
        *warnings_of(found, has_program=lambda name: shutil.which(name) is not None, variables=os.environ),
        *unknown_accounts(found),
    ]
    edges = sum(len(task.needs) for task in found.tasks)
    if as_json:
        counts = {"tasks": len(found.tasks), "dependencies": edges}
        told = [warning.to_json() for warning in warnings]
        print_json({"plan": str(file), "valid": True, **counts, "warnings": told})
    else:
        for warning in warnings:
            print(f"warning: {warning.sentence}. {warning.hint}.")
        print(
            f"{file} is a good plan: {plural(len(found.tasks), 'task')}, {plural(edges, 'dependency', 'dependencies')}."
        )
        print(f"run it with: coord run {quote(str(file))}")
