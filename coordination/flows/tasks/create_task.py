"""Add one task to a run that exists, because a person wants it; a run that has ended goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import NotFound, Refused
from coordination.base.ids import new_id
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.domain.jobs import Job
from coordination.domain.jobs.accounts import DEFAULT_ACCOUNT
from coordination.domain.jobs.checkouts import CheckoutKind, parse_gates, run_branch
from coordination.domain.plans import graph
from coordination.domain.plans.plan_expansion import SUPERVISION, VARIANT, VARIANTS, expand, supervision_of
from coordination.domain.plans.plans import Defaults, Plan
from coordination.domain.plans.plans import Task as Planned
from coordination.domain.projects.projects import Project, ProjectStatus
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.services.agents.agents import AgentLookup
from coordination.services.plans.add_discovered_tasks import check_needs, has_open_needs, need_key
from coordination.services.plans.store_graph import key_taken, prepare_graph, store_graph
from coordination.services.plans.task_rows import GraphScope
from coordination.services.projects import projects as project_service
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.tasks import events, runs, slots
from coordination.store.queries.tasks import tasks as task_rows


@dataclass(frozen=True, slots=True)
class CreatedTask:
    """What was stored. ``ready``: how many tasks may be claimed now; ``reopened``: the run had ended."""

    project_id: str
    task_id: str
    ready: int
    reopened: bool


def create_task(
    tx: Connection,
    workspace_id: str,
    run_id: str,
    task: Planned,
    *,
    actor: str,
    lifetime: timedelta = DEFAULT_LIFETIME,
) -> CreatedTask:
    """Store *task* in the run. Raises NotFound, PlanError or Refused with nothing stored.

    It has the gates of its project, and is supervised as the run is. What it needs are keys of the run.
    """
    run = runs.get(tx, workspace_id, run_id)
    project = None if run is None else project_rows.get(tx, workspace_id, run.project_id)
    if run is None or project is None:
        raise NotFound(f"There is no run {run_id}", hint="See: coord runs list")
    if project.status is ProjectStatus.ARCHIVED:
        raise Refused(f"The project {project.name} is archived", hint=f"Run: coord projects resume {project.name}")
    keys = sorted({task.key, *map(need_key, task.needs), *([task.parent] if task.parent else [])})
    # What it needs must not end between this look and its edges.
    task_rows.lock(tx, workspace_id, [one.id for one in task_rows.keyed(tx, workspace_id, run_id, keys).values()])
    there = task_rows.keyed(tx, workspace_id, run_id, keys)
    if task.key in there:
        raise key_taken(task.key)
    metadata = runs.metadata_of(tx, workspace_id, run_id)
    who = metadata.get(SUPERVISION)
    plan = Plan([task], defaults=Defaults(account=metadata.get(DEFAULT_ACCOUNT)))
    graph.check_plan(plan, existing=there)
    plan = expand(replace(plan, supervision=supervision_of(who) if who else None))
    works: Mapping[str, Job] = graph.check_plan(plan, existing=there)
    if taken := task_rows.keyed(tx, workspace_id, run_id, [one.key for one in plan.tasks]):
        raise key_taken(min(taken))
    satisfied = check_needs(plan.tasks, there, None, set())
    graph_ = prepare_graph(plan, works, AgentLookup(tx, workspace_id), project.model_restrictions)
    ids = {key: one.id for key, one in there.items()} | {one.key: new_id() for one in plan.tasks}
    gates = parse_gates(project.settings.get("gates"))
    scope = GraphScope(workspace_id, project.id, run_id, actor, project.path, gates)
    store_graph(tx, scope, graph_, ids, satisfied=satisfied)
    if task.concurrency_key:
        slots.lock(tx, workspace_id, project.id)
        slots.ensure(tx, workspace_id, project.id, {f"key:{task.concurrency_key}": 1})
    reopened = _keep_open(tx, workspace_id, run_id, project, plan, actor=actor)
    supervisors.ensure(tx, workspace_id, project.id, session_key=f"supervisor:create:{run_id}", lifetime=lifetime)
    queued = sum(not has_open_needs(one, satisfied) for one in plan.tasks)
    return CreatedTask(project.id, ids[task.key], queued, reopened)


def _keep_open(tx: Connection, workspace_id: str, run_id: str, project: Project, plan: Plan, *, actor: str) -> bool:
    """A run with an open task is open, and knows where changes of its tasks go. Runs are locked last."""
    project_service.activate(tx, workspace_id, project)
    reopened = runs.reopen(tx, workspace_id, run_id)
    if reopened:
        events.append(tx, workspace_id, [NewEvent(EventType.RUN_REOPENED, project.id, run_id, actor=actor)])
    noted: dict[str, Any] = {}
    if any(plan.checkout_of(one).kind is CheckoutKind.GIT_WORKTREE for one in plan.tasks):
        noted["branch"] = run_branch(run_id)
    if any(VARIANT in one.role for one in plan.tasks):
        noted[VARIANTS] = True
    if noted:
        runs.note(tx, workspace_id, run_id, noted)
    return reopened
