"""Reads and checks the plan files that commands get as arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from coordination.base.errors import Refused

if TYPE_CHECKING:
    from coordination.domain.plans.plans import Plan

PlanFile = Annotated[Path | None, Argument(metavar="PLAN", help="The plan file (YAML).", show_default=False)]
Repo = Annotated[
    Path | None,
    Option("--repo", "-C", metavar="DIR", help="The repository to work on (default: that of the current folder)."),
]


def read_plan(path: Path | None, repo: Path | None) -> Plan:
    """Return the checked plan in a file, for that repository."""
    if path is None:
        raise Refused("Name a plan file")
    return for_repository(read_plan_file(path), repo)


def for_repository(plan: Plan, repo: Path | None) -> Plan:
    """Return *plan* with the folder *repo* as its repository, checked."""

    from coordination.domain.plans import graph

    if repo is not None:
        if not repo.is_dir():
            raise Refused(f"{repo} is not a folder")
        plan = replace(plan, project=replace(plan.project, path=str(repo.resolve())))
    graph.check_plan(plan)
    return plan


def read_plan_file(path: Path) -> Plan:
    """Return the plan in a file, its paths resolved against the file's folder."""
    from coordination.formats import plan as plans

    try:
        with path.open("rb") as file:
            data = file.read(plans.MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return plans.resolve_paths(plans.read_plan(data, source=str(path)), str(path.resolve().parent))
