"""``coord check`` and ``coord schema``: check plan files without storing anything."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from coordination.base.wording import plural
from coordination.cli.options import AsJson, print_json
from coordination.views import plans as views


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Print schemas of files, for editors.")
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
    """Check a plan file, without a store: whether its agents exist is checked when it is submitted.

    Warns of agents that may work in one folder at the same time, and of programs, keys and accounts that are missing
    here; the exit code is 0 anyway, because the workers may have them.
    """
    import os
    import shutil

    from coordination.cli.agents.accounts import unknown_accounts
    from coordination.cli.plan_files import read_plan_file
    from coordination.domain.plans import graph
    from coordination.domain.plans.plan_warnings import warnings_of

    plan_read = read_plan_file(file)
    graph.check(plan_read)
    warnings = [
        *warnings_of(plan_read, has_program=lambda name: shutil.which(name) is not None, variables=os.environ),
        *unknown_accounts(plan_read),
    ]
    edges = sum(len(task.needs) for task in plan_read.tasks)
    if as_json:
        print_json(views.plan_check(str(file), tasks=len(plan_read.tasks), dependencies=edges, warnings=warnings))
    else:
        for warning in warnings:
            print(f"warning: {warning.sentence}. {warning.hint}.")
        print(
            f"{file} is valid: {plural(len(plan_read.tasks), 'task')}, {plural(edges, 'dependency', 'dependencies')}."
        )
        print(f"Run it with: coord run {quote(str(file))}")
