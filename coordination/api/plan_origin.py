"""Finds the project of a plan: the one that it names, or that of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordination.adapters import git_checkout
from coordination.base.errors import Refused
from coordination.domain.plans.plans import Plan
from coordination.domain.projects.projects import identity_of, short_name
from coordination.flows.plans.submit_plan import PlanOrigin


def find_origin(plan: Plan, *, actor: str, metadata: Mapping[str, Any]) -> PlanOrigin:
    """Return the origin of the plan. Raises Refused when its folder does not exist."""
    reference = plan.project
    folder = Path(reference.path) if reference.path else Path.cwd()
    if not folder.is_dir():
        raise Refused(f"The project's folder {folder} does not exist")
    if reference.git_remote is not None:  # git, a process for each query, is only needed for the folder
        identity = identity_of(reference.git_remote, machine=git_checkout.machine())
        name, root = reference.name or short_name(identity), git_checkout.top_folder(folder)
    else:
        here = git_checkout.checkout_of(folder)
        identity, name, root = here.identity, reference.name or here.name, here.root
    return PlanOrigin(identity=identity, name=name, creator=actor, path=str(root), metadata=metadata)
