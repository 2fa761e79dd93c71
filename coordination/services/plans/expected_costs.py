"""What a plan that is being submitted is expected to take and to cost, where that is soon said."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.base.clock import utc_now
from coordination.domain.forecast.forecast_inputs import ForecastInputs
from coordination.domain.money.estimates import history_key
from coordination.domain.money.pricing import UnknownPrice
from coordination.domain.plans.plans import Plan
from coordination.domain.projects.projects import Project, ProjectStatus
from coordination.services.plans import task_rows
from coordination.store.queries.fleet import workers
from coordination.store.queries.forecast import job_history
from coordination.store.queries.tasks import slots

MOST_TASKS = 1_000
"""Of a plan that is played through while it is submitted: that takes a tenth of a second, no more."""

_EFFORT = 20_000
_LIVE_WITHIN = timedelta(seconds=30)
_PLACES = 8  # where no worker lives yet


def expected(tx: Connection, project: Project, graph: task_rows.Graph) -> dict[str, Any] | None:
    """Return what is kept with the run; None where nothing like it has run, or finding out would take a while."""
    plan, bodies = graph.plan, graph.bodies
    if project.status is ProjectStatus.PLANNING or len(plan.tasks) > MOST_TASKS:
        return None
    kinds = {history_key(body) for body in {id(body): body for body in bodies.values()}.values()}
    found = job_history.samples_of(tx, project.workspace_id, [(project.id, kind) for kind in sorted(kinds)])
    if not found:
        return None
    known = {kind: samples for (_, kind), samples in found.items()}
    outlook = ForecastInputs(plan, bodies, graph.agents, known=known, recent={}, quote=_unasked)
    places = workers.count_live_slots(tx, within=_LIVE_WITHIN) or _PLACES
    made = outlook.predicted(
        slots=places, caps=caps_of(tx, project, plan), now=utc_now(), effort=min(_EFFORT, 100 * len(plan.tasks))
    )
    return made.to_json()


def caps_of(tx: Connection, project: Project, plan: Plan) -> dict[str, int]:
    """How many tasks run at once by the limits of the project as they are, and of the plan."""
    caps = dict.fromkeys(task_rows.limited_keys(plan), 1)
    caps |= {row["name"]: row["cap"] for row in slots.listed(tx, project.workspace_id, project.id)}
    return caps | task_rows.caps(plan)


def _unasked(_model: str) -> UnknownPrice:
    return UnknownPrice("loading a price list takes longer than submitting a plan")
