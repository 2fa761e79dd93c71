"""Simulate a plan: what it would take and cost if it were submitted now. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection

from coordination.adapters import price_list
from coordination.base.clock import utc_now
from coordination.base.errors import Unavailable
from coordination.domain.forecast.forecast_inputs import ForecastInputs
from coordination.domain.forecast.predictions import Prediction
from coordination.domain.jobs import Job
from coordination.domain.money.estimates import JobSample, Quoted, asks_a_model, history_key
from coordination.domain.money.pricing import Quote, UnknownPrice
from coordination.domain.plans import graph
from coordination.domain.plans.plans import Plan
from coordination.services.agents import agents as agent_service
from coordination.services.money import prices as price_service
from coordination.services.plans import task_rows
from coordination.services.plans.check_models import check_models
from coordination.services.plans.expand import expand_for_project
from coordination.services.plans.expected_costs import slot_caps
from coordination.store.queries.fleet import workers
from coordination.store.queries.forecast import job_history
from coordination.store.queries.projects import projects
from coordination.store.reports.forecast import job_durations


@dataclass(frozen=True, slots=True)
class SimulationBasis:
    """All that a simulation asks of the store: the rest needs no transaction."""

    outlook: ForecastInputs
    slots: int
    caps: Mapping[str, int]

    def predicted(self, *, seed: int = 0) -> Prediction:
        """Play it; the same *seed* gives the same answer."""
        return self.outlook.predicted(slots=self.slots, caps=self.caps, now=utc_now(), seed=seed)


def simulate_plan(
    tx: Connection,
    workspace_id: str,
    plan: Plan,
    identity: str,
    *,
    places: int | None,
    live_within: timedelta,
    otherwise: int,
    assume: timedelta | None = None,
) -> SimulationBasis:
    """What *plan* would begin with in the project of that identity, which need not exist yet. PlanError or Refused.

    *places*: how many jobs run at once; None: as many as the workers heard of *live_within* run, or *otherwise* where
    there are none. *assume*: how long jobs take of which nothing is known.
    """
    works: Mapping[str, Job] = graph.check_plan(plan)
    project = projects.find_by_identity(tx, workspace_id, identity)
    plan, works = expand_for_project(plan, works, project.settings if project is not None else {})
    works, assigned = task_rows.resolve_agents(plan, works, agent_service.AgentLookup(tx, workspace_id))
    bodies = {key: job.body for key, job in task_rows.job_rows(works).items()}
    check_models(plan, bodies, project.model_restrictions if project is not None else {})
    kinds = {history_key(body): body for body in {id(body): body for body in bodies.values()}.values()}
    known: dict[str, tuple[JobSample, ...]] = {}
    recent: dict[str, list[JobSample]] = {}
    caps = dict.fromkeys(task_rows.limited_keys(plan), 1) | task_rows.concurrency_caps(plan)
    if project is not None:
        found = job_history.samples_of(tx, workspace_id, [(project.id, kind) for kind in kinds])
        known = {kind: samples for (_, kind), samples in found.items()}
        free = {kind for kind, body in kinds.items() if not asks_a_model(body)}
        recent = job_durations.recent(tx, workspace_id, project.id, free)
        caps = slot_caps(tx, project, plan)
    outlook = ForecastInputs(
        plan,
        bodies,
        assigned,
        known=known,
        recent=recent,
        quote=_quoted(tx, workspace_id, None if project is None else project.id),
        assume=assume,
    )
    if places is None:
        places = workers.count_live_slots(tx, within=live_within) or otherwise
    return SimulationBasis(outlook, places, caps)


def _quoted(tx: Connection, workspace_id: str, project_id: str | None) -> Quoted:
    """Prices as they are now; without the list, none are known."""
    book, now = price_service.open_book(tx, workspace_id, price_list.quote), utc_now()

    def quote(model: str) -> Quote | UnknownPrice:
        try:
            return book.quote(model, project_id, now)
        except Unavailable as error:
            return UnknownPrice(error.message)

    return quote
