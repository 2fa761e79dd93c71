"""Submission of a plan, which is checked before anything is stored, and is stored in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.base.clock import utc_now
from coordination.base.errors import NotFound, Refused
from coordination.base.ids import is_id, new_id
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.domain.forecast.forecast_inputs import ForecastInputs
from coordination.domain.issues.record import Issue
from coordination.domain.jobs import AGENTS
from coordination.domain.jobs.accounts import DEFAULT_ACCOUNT
from coordination.domain.jobs.checkouts import parse_gates
from coordination.domain.money.estimates import history_key
from coordination.domain.money.pricing import UnknownPrice
from coordination.domain.money.sessions import SessionTarget
from coordination.domain.plans.graph import check_plan
from coordination.domain.plans.plan_expansion import ANALYZE, ANSWERER, ASSESS, SUPERVISION, check_supervisor
from coordination.domain.plans.plans import Plan
from coordination.domain.projects.projects import Project, ProjectStatus
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.services.agents.agents import AgentLookup
from coordination.services.plans.store_graph import (
    Graph,
    GraphScope,
    concurrency_caps,
    limited_keys,
    prepare_plan,
    run_metadata,
    slot_caps,
    store_graph,
)
from coordination.services.projects import projects as project_service
from coordination.store.queries.fleet import supervisors, workers
from coordination.store.queries.forecast import job_history
from coordination.store.queries.issues import issues as issue_rows
from coordination.store.queries.tasks import events, runs, slots

MOST_SIMULATED = 1_000
"""The most tasks of a plan that is simulated on submission, so that this takes at most a tenth of a second."""

_EFFORT = 20_000
_LIVE_WITHIN = timedelta(seconds=30)
_DEFAULT_SLOTS = 8  # where no worker runs


@dataclass(frozen=True, slots=True)
class PlanOrigin:
    """The project of a plan (its identity, a name for people, a folder), and who submits it."""

    identity: str
    name: str
    creator: str
    path: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """The ids of a stored run and its tasks (by key)."""

    run_id: str
    project_id: str
    task_ids: dict[str, str]


def submit_plan(
    tx: Connection,
    workspace_id: str,
    plan: Plan,
    origin: PlanOrigin,
    *,
    lifetime: timedelta = DEFAULT_LIFETIME,
    issues: Sequence[Issue] | None = None,
) -> SubmittedRun:
    """Store *plan* as a new run. Raises PlanError or Refused with nothing stored.

    *issues*: of another tracker, which replace those of the project. Tasks with ``issue`` in their metadata are linked.
    """
    works = check_plan(plan)
    project = project_service.resolve(tx, workspace_id, identity=origin.identity, name=origin.name, path=origin.path)
    project_service.require_not_archived(project)
    agents = AgentLookup(tx, workspace_id)
    graph = prepare_plan(plan, works, project, agents)
    plan = graph.plan
    project_service.activate(tx, workspace_id, project)
    run_id = new_id()
    answerer = _answerer(plan, project, agents)
    session_id = _session(tx, workspace_id, project.id, plan)
    runs.insert_run(
        tx,
        workspace_id,
        {
            "id": run_id,
            "project_id": project.id,
            "session_id": session_id,
            "name": plan.name or project.name,
            "creator": origin.creator,
            "python_path": list(plan.python_path),
            "budget_usd": plan.budget.usd if plan.budget else None,
            "budget_on_exceed": plan.budget.on_exceed if plan.budget else None,
            "metadata": dict(origin.metadata) | run_metadata(plan, run_id) | _plan_metadata(plan) | answerer,
            "predicted": _expected_costs(tx, project, graph),
        },
    )
    ids = {task.key: new_id() for task in plan.tasks}
    gates = () if (stored := project.settings.get("gates")) is None else parse_gates(stored)
    scope = GraphScope(workspace_id, project.id, run_id, origin.creator, origin.path, gates)
    counts = {"tasks": len(ids), "dependencies": sum(len(task.needs) for task in plan.tasks), "name": plan.name}
    submission = NewEvent(EventType.RUN_SUBMITTED, project.id, run_id, actor=origin.creator, payload=counts)
    events.append(tx, workspace_id, [submission])
    _limits(tx, scope, plan)
    store_graph(tx, scope, graph, ids, is_new_run=True)
    if issues is not None:
        issue_rows.replace_all(tx, workspace_id, project.id, [(issue.id, issue.raw) for issue in issues])
        linked = [(str(task.metadata["issue"]), ids[task.key]) for task in plan.tasks if "issue" in task.metadata]
        issue_rows.link(tx, workspace_id, project.id, linked)
    supervisors.ensure(
        tx, workspace_id, project.id, session_key=f"supervisor:{project.name}:{run_id}", lifetime=lifetime
    )
    return SubmittedRun(run_id, project.id, ids)


def _expected_costs(tx: Connection, project: Project, graph: Graph) -> dict[str, Any] | None:
    """Return the forecast that is stored with the run; None if no similar job has run, or the plan is too large."""
    plan, bodies = graph.plan, graph.bodies
    if project.status is ProjectStatus.PLANNING or len(plan.tasks) > MOST_SIMULATED:
        return None
    kinds = {history_key(body) for body in {id(body): body for body in bodies.values()}.values()}
    history = job_history.samples_of(tx, project.workspace_id, [(project.id, kind) for kind in sorted(kinds)])
    if not history:
        return None
    samples = {kind: values for (_, kind), values in history.items()}
    inputs = ForecastInputs(plan, bodies, graph.agents, known=samples, recent={}, quote=_no_quote)
    slot_count = workers.count_live_slots(tx, within=_LIVE_WITHIN) or _DEFAULT_SLOTS
    caps, effort = slot_caps(tx, project, plan), min(_EFFORT, 100 * len(plan.tasks))
    return inputs.predict(slots=slot_count, caps=caps, now=utc_now(), effort=effort).to_json()


def _no_quote(_model: str) -> UnknownPrice:
    return UnknownPrice("loading a price list takes longer than submitting a plan")


def _plan_metadata(plan: Plan) -> dict[str, Any]:
    """Return the run's metadata for tasks that are reported later: default account, supervision."""
    metadata: dict[str, Any] = {}
    if plan.defaults.account is not None:
        metadata[DEFAULT_ACCOUNT] = plan.defaults.account
    if plan.supervision is not None:
        reviewers = {ASSESS: plan.supervision.assess, ANALYZE: plan.supervision.analyze}
        metadata[SUPERVISION] = {name: dict(body) for name, body in reviewers.items() if body is not None}
    return metadata


def _answerer(plan: Plan, project: Project, agents: AgentLookup) -> dict[str, Any]:
    """Return the run's metadata with the agent that answers questions. Raises Refused for an unknown agent."""
    answerer = project.settings.get(ANSWERER) if plan.questions is None else plan.questions
    if answerer is None:
        return {}
    body = check_supervisor(answerer, ANSWERER)
    name = body.get("agent")
    if name is not None and name not in AGENTS and agents.choose(name) is None:
        raise Refused(
            f"There is no agent {excerpt(name)} to answer questions", hint=did_you_mean(name, [*AGENTS, *agents.names])
        )
    return {ANSWERER: SupervisorSettings.of(project.settings).run(body)}


def _limits(tx: Connection, scope: GraphScope, plan: Plan) -> None:
    """Set the project's concurrency limits to those of the plan; keys without a limit are limited to one."""
    caps = concurrency_caps(plan)
    default_keys = limited_keys(plan) - set(caps)
    if caps or default_keys:
        slots.lock(tx, scope.workspace_id, scope.project_id)
    for name in sorted(default_keys.union(caps)):  # sorted, so that concurrent submissions do not deadlock
        store = slots.set_caps if name in caps else slots.ensure
        store(tx, scope.workspace_id, scope.project_id, {name: caps.get(name, 1)})


def _session(tx: Connection, workspace_id: str, project_id: str, plan: Plan) -> str:
    """Return the id of the run's session: the one in the plan, a new one (isolated), or the ongoing one."""
    target = SessionTarget.ISOLATED if plan.session == SessionTarget.ISOLATED else SessionTarget.MAIN
    session, agent = None, plan.defaults.agent
    if plan.session is not None and plan.session not in tuple(SessionTarget):
        session = runs.get_session(tx, workspace_id, plan.session) if is_id(plan.session) else None
        if session is None or session.project_id != project_id:
            raise NotFound(
                f"The project has no session {plan.session}",
                hint="Write main (the ongoing one), isolated (a new one) or a session's id: coord sessions list",
            )
    elif target is SessionTarget.MAIN:
        session = runs.get_main_session(tx, workspace_id, project_id, agent)
    if session is not None:
        runs.touch_sessions(tx, workspace_id, [session.id])
        return session.id
    session_id = new_id()
    runs.insert_session(
        tx,
        workspace_id,
        {
            "id": session_id,
            "project_id": project_id,
            "agent": agent,
            "purpose": plan.name or "main" if target is SessionTarget.ISOLATED else "main",
            "target": target,
        },
    )
    return session_id
