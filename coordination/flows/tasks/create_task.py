"""Add one task to an existing run on behalf of a person. A run that has ended is reopened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.base.ids import new_id
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.domain.jobs import Job
from coordination.domain.jobs.accounts import DEFAULT_ACCOUNT
from coordination.domain.jobs.checkouts import parse_gates
from coordination.domain.plans import graph
from coordination.domain.plans.plan_expansion import SUPERVISION, expand, supervision_of
from coordination.domain.plans.plans import Defaults, Plan
from coordination.domain.plans.plans import Task as Planned
from coordination.services.agents.agents import AgentLookup
from coordination.services.attempts.end import reopen_run
from coordination.services.plans.add_discovered_tasks import check_needs, has_open_needs, need_key
from coordination.services.plans.store_graph import GraphScope, key_taken, prepare_graph, run_metadata, store_graph
from coordination.services.projects import projects as project_service
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.tasks import runs, slots
from coordination.store.queries.tasks import tasks as task_rows


@dataclass(frozen=True, slots=True)
class CreatedTask:
    """The stored task. ``ready``: how many tasks are ready; ``reopened``: whether the run had ended."""

    project_id: str
    task_id: str
    ready: int
    reopened: bool


def create_task(
    tx: Connection, workspace_id: str, run_id: str, task: Planned, *, actor: str, lifetime: timedelta = DEFAULT_LIFETIME
) -> CreatedTask:
    """Store *task* in the run. Raises NotFound, PlanError or Refused with nothing stored.

    It has the gates of its project and the review loop of the run. Its ``needs`` are keys of the run.
    """
    run = runs.get(tx, workspace_id, run_id)
    project = None if run is None else project_rows.get(tx, workspace_id, run.project_id)
    if run is None or project is None:
        raise NotFound(f"There is no run {run_id}", hint="See: coord runs list")
    project_service.require_not_archived(project)
    keys = sorted({task.key, *map(need_key, task.needs), *([task.parent] if task.parent else [])})
    # Its dependencies must not end before its edges are stored.
    needed = task_rows.lock_by_key(tx, workspace_id, run_id, keys).values()
    task_rows.lock(tx, workspace_id, [each.id for each in needed])
    existing = task_rows.lock_by_key(tx, workspace_id, run_id, keys)
    if task.key in existing:
        raise key_taken(task.key)
    metadata = runs.metadata_of(tx, workspace_id, run_id)
    supervision = metadata.get(SUPERVISION)
    plan = Plan([task], defaults=Defaults(account=metadata.get(DEFAULT_ACCOUNT)))
    graph.check_plan(plan, existing=existing)
    plan = expand(replace(plan, supervision=supervision_of(supervision) if supervision else None))
    works: Mapping[str, Job] = graph.check_plan(plan, existing=existing)
    if duplicates := task_rows.lock_by_key(tx, workspace_id, run_id, [each.key for each in plan.tasks]):
        raise key_taken(min(duplicates))
    satisfied = check_needs(plan.tasks, existing, None, set())
    graph_ = prepare_graph(plan, works, AgentLookup(tx, workspace_id), project)
    ids = {key: each.id for key, each in existing.items()} | {each.key: new_id() for each in plan.tasks}
    gates = parse_gates(project.settings.get("gates"))
    scope = GraphScope(workspace_id, project.id, run_id, actor, project.path, gates)
    store_graph(tx, scope, graph_, ids, satisfied=satisfied)
    if task.concurrency_key:
        slots.lock(tx, workspace_id, project.id)
        slots.ensure(tx, workspace_id, project.id, {f"key:{task.concurrency_key}": 1})
    project_service.activate(tx, workspace_id, project)
    reopened = reopen_run(tx, workspace_id, project.id, run_id, actor=actor)  # runs are locked last
    if more := run_metadata(plan, run_id):
        runs.add_metadata(tx, workspace_id, run_id, more)
    supervisors.ensure(tx, workspace_id, project.id, session_key=f"supervisor:create:{run_id}", lifetime=lifetime)
    queued = sum(not has_open_needs(each, satisfied) for each in plan.tasks)
    return CreatedTask(project.id, ids[task.key], queued, reopened)
