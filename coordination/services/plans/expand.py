"""A plan with its tasks in their parts, as its project wants it: variants that race, tasks that are supervised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.jobs import Job
from coordination.domain.plans import graph
from coordination.domain.plans.plan_expansion import expanded, supervision_of
from coordination.domain.plans.plans import Plan


def in_parts(plan: Plan, works: Mapping[str, Job], settings: Mapping[str, Any]) -> tuple[Plan, Mapping[str, Job]]:
    """*plan* with what its variants and its supervision (or the project's) make of its tasks."""
    wanted = settings.get("supervision")
    if plan.supervision is None and isinstance(wanted, Mapping):
        plan = replace(plan, supervision=supervision_of(wanted))
    if plan.supervision is not None:
        supervisor = SupervisorSettings.of(settings)
        both = {"assess": supervisor.run(plan.supervision.assess), "analyze": supervisor.run(plan.supervision.analyze)}
        plan = replace(plan, supervision=replace(plan.supervision, **both))
    parted = expanded(plan)
    return (plan, works) if parted is plan else (parted, graph.check(parted))
