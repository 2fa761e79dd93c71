"""Checks that a project allows the models of a plan's jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.base.errors import PlanError
from coordination.base.wording import excerpt
from coordination.domain.plans.plans import Plan
from coordination.domain.projects.model_policy import parse_restrictions, refusal


def check_models(plan: Plan, bodies: Mapping[str, Mapping[str, Any]], setting: Mapping[str, Any]) -> None:
    """Raise PlanError, with the line, for the first task whose model the project does not allow.

    *setting*: the project's restrictions of models. Raises Refused when these are invalid.
    """
    restrictions = parse_restrictions(setting) if setting else None
    if restrictions is None:
        return
    for task in plan.tasks:
        if why := refusal(bodies[task.key], restrictions):
            raise PlanError(
                f"Task {excerpt(task.key)}: {why}",
                source=plan.source,
                line=plan.lines.get(task.key),
                hint="Use another model, or change the allowed ones: coord projects change NAME --models KEY=JSON",
                field=f"tasks.{task.key}.run",
            )
