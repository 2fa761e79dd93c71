"""``coord check`` and ``coord schema``: check plan files without storing anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from shlex import quote
from typing import Annotated

from typer import Argument

from coordination.base.wording import plural
from coordination.cli.agents.accounts import unknown_accounts
from coordination.cli.options import AsJson, print_json
from coordination.cli.plan_files import read_plan_file
from coordination.views import plans as views


def plan() -> None:
    """Print the JSON Schema of the plan file."""
    from coordination.formats.plan import plan_schema

    print_json(plan_schema())


def check(
    file: Annotated[Path, Argument(metavar="PLAN", help="The plan file (YAML).")], *, as_json: AsJson = False
) -> None:
    """Validate a plan file without a store. Whether its agents exist is checked when it is submitted.

    Warns of agents that may work in one folder at the same time, and of programs, keys and accounts that are missing
    here. Warnings do not change the exit code, because the workers may have them.
    """

    from coordination.domain.plans import graph
    from coordination.domain.plans.plan_warnings import warnings_of

    checked = read_plan_file(file)
    graph.check_plan(checked)
    warnings = [
        *warnings_of(checked, has_program=lambda name: shutil.which(name) is not None, variables=os.environ),
        *unknown_accounts(checked),
    ]
    edges = sum(len(task.needs) for task in checked.tasks)
    if as_json:
        print_json(views.plan_check(str(file), tasks=len(checked.tasks), dependencies=edges, warnings=warnings))
    else:
        for warning in warnings:
            print(f"warning: {warning.sentence}. {warning.hint}.")
        print(f"{file} is valid: {plural(len(checked.tasks), 'task')}, {plural(edges, 'dependency', 'dependencies')}.")
        print(f"Run it with: coord run {quote(str(file))}")
