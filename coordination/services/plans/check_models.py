"""Whether a project allows the models that the jobs of a plan name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.base.errors import PlanError
from coordination.base.wording import excerpt
from coordination.domain.plans.plans import Plan
from coordination.domain.projects.model_policy import parse_restrictions, refusal


def check_models(plan: Plan, bodies: Mapping[str, Mapping[str, Any]], restricted: Mapping[str, Any]) -> None:
    """PlanError, with the line, for the first task whose model the project does not allow.

    *restricted*: what the project says of models. Refused when that cannot be understood.
    """
    restrictions = parse_restrictions(restricted) if restricted else None
    if restrictions is None:
        return
    for task in plan.tasks:
        if why := refusal(bodies[task.key], restrictions):
            raise PlanError(
                f"Task {excerpt(task.key)}: {why}",
                source=plan.source,
                line=plan.lines.get(task.key),
                hint="Name another model, or change what is allowed: coord projects change NAME --models KEY=JSON",
                field=f"tasks.{task.key}.run",
            )
