"""The expected duration and cost of a submitted plan, where they can be computed quickly."""

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
from coordination.store.queries.tasks import slots as slot_rows

MOST_TASKS = 1_000
"""The maximum of a plan that is simulated on submission, so that this takes at most a tenth of a second."""

_EFFORT = 20_000
_LIVE_WITHIN = timedelta(seconds=30)
_DEFAULT_SLOTS = 8  # where no worker runs


def expect_costs(tx: Connection, project: Project, graph: task_rows.Graph) -> dict[str, Any] | None:
    """Return the forecast that is stored with the run; None if no similar job has run, or the plan is too large."""
    plan, bodies = graph.plan, graph.bodies
    if project.status is ProjectStatus.PLANNING or len(plan.tasks) > MOST_TASKS:
        return None
    kinds = {history_key(body) for body in {id(body): body for body in bodies.values()}.values()}
    history = job_history.samples_of(tx, project.workspace_id, [(project.id, kind) for kind in sorted(kinds)])
    if not history:
        return None
    samples = {kind: values for (_, kind), values in history.items()}
    inputs = ForecastInputs(plan, bodies, graph.agents, known=samples, recent={}, quote=_no_quote)
    slots = workers.count_live_slots(tx, within=_LIVE_WITHIN) or _DEFAULT_SLOTS
    caps, effort = slot_caps(tx, project, plan), min(_EFFORT, 100 * len(plan.tasks))
    return inputs.predict(slots=slots, caps=caps, now=utc_now(), effort=effort).to_json()


def slot_caps(tx: Connection, project: Project, plan: Plan) -> dict[str, int]:
    """Return how many tasks may run at once by the limits of the project and the plan, by the names of the limits."""
    caps = dict.fromkeys(task_rows.limited_keys(plan), 1)
    caps |= {row["name"]: row["cap"] for row in slot_rows.list_slots(tx, project.workspace_id, project.id)}
    return caps | task_rows.concurrency_caps(plan)


def _no_quote(_model: str) -> UnknownPrice:
    return UnknownPrice("loading a price list takes longer than submitting a plan")
