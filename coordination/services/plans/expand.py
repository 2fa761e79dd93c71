"""Expansion of a submitted plan into variants and review loops, with the settings of its project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.jobs import Job
from coordination.domain.plans import graph
from coordination.domain.plans.plan_expansion import expand, supervision_of
from coordination.domain.plans.plans import Plan


def expand_for_project(
    plan: Plan, works: Mapping[str, Job], settings: Mapping[str, Any]
) -> tuple[Plan, Mapping[str, Job]]:
    """Return *plan* with its variants and the review loop of its supervision (or the project's), and its jobs."""
    default = settings.get("supervision")
    if plan.supervision is None and isinstance(default, Mapping):
        plan = replace(plan, supervision=supervision_of(default))
    if plan.supervision is not None:
        supervisor = SupervisorSettings.of(settings)
        both = {"assess": supervisor.run(plan.supervision.assess), "analyze": supervisor.run(plan.supervision.analyze)}
        plan = replace(plan, supervision=replace(plan.supervision, **both))
    expanded = expand(plan)
    return (plan, works) if expanded is plan else (expanded, graph.check_plan(expanded))
