"""Prepares the simulation of a plan: what it would take and cost if it were submitted now. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from sqlalchemy import Connection

from coordination.adapters import price_list
from coordination.base.clock import utc_now
from coordination.base.errors import Unavailable
from coordination.domain.forecast.forecast_inputs import ForecastInputs
from coordination.domain.forecast.predictions import Prediction
from coordination.domain.money.estimates import JobSample, QuoteModel, asks_a_model, history_key
from coordination.domain.money.pricing import Quote, UnknownPrice
from coordination.domain.plans.graph import check_plan
from coordination.domain.plans.plans import Plan
from coordination.services.agents.agents import AgentLookup
from coordination.services.money import prices as price_service
from coordination.services.plans import store_graph
from coordination.store.queries.fleet import workers
from coordination.store.queries.forecast import job_history
from coordination.store.queries.projects import projects
from coordination.store.reports.forecast import job_durations


def simulate_plan(
    tx: Connection,
    workspace_id: str,
    plan: Plan,
    identity: str,
    *,
    slots: int | None,
    live_within: timedelta,
    default_slots: int,
    assume: timedelta | None = None,
) -> Callable[..., Prediction]:
    """Return a function that simulates *plan* in the project of that identity, which may not exist yet.

    It needs no transaction, and returns the same prediction for the same ``seed``. *slots*: how many jobs run at once;
    None: those of workers with a heartbeat within *live_within*, or *default_slots* without workers. *assume*: the
    duration of unknown jobs. Raises PlanError or Refused.
    """
    works = check_plan(plan)
    project = projects.find_by_identity(tx, workspace_id, identity)
    graph = store_graph.prepare_plan(plan, works, project, AgentLookup(tx, workspace_id))
    plan, bodies = graph.plan, graph.bodies
    kinds = {history_key(body): body for body in {id(body): body for body in bodies.values()}.values()}
    known: dict[str, tuple[JobSample, ...]] = {}
    recent: dict[str, list[JobSample]] = {}
    caps = dict.fromkeys(store_graph.limited_keys(plan), 1) | store_graph.concurrency_caps(plan)
    if project is not None:
        history = job_history.samples_of(tx, workspace_id, [(project.id, kind) for kind in kinds])
        known = {kind: samples for (_, kind), samples in history.items()}
        free = {kind for kind, body in kinds.items() if not asks_a_model(body)}
        recent = job_durations.recent_durations(tx, workspace_id, project.id, free)
        caps = store_graph.slot_caps(tx, project, plan)
    inputs = ForecastInputs(
        plan,
        bodies,
        graph.agents,
        known=known,
        recent=recent,
        quote=_make_quote(tx, workspace_id, None if project is None else project.id),
        assume=assume,
    )
    if slots is None:
        slots = workers.count_live_slots(tx, within=live_within) or default_slots
    return partial(inputs.predict, slots=slots, caps=caps, now=utc_now())


def _make_quote(tx: Connection, workspace_id: str, project_id: str | None) -> QuoteModel:
    """Return a function that looks up present prices. Without the price list, all are unknown."""
    book, now = price_service.open_book(tx, workspace_id, price_list.quote), utc_now()

    def quote(model: str) -> Quote | UnknownPrice:
        try:
            return book.quote(model, project_id, now)
        except Unavailable as error:
            return UnknownPrice(error.message)

    return quote
