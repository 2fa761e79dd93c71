"""Prepares and stores a graph of tasks: submitted plans, reported tasks, and tasks that people add."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from coordination.base.errors import PlanError, Refused
from coordination.base.wording import excerpt
from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.jobs import Job
from coordination.domain.plans.graph import check_plan
from coordination.domain.plans.plan_expansion import expand, supervision_of
from coordination.domain.plans.plans import Plan
from coordination.domain.projects.model_policy import parse_restrictions, refusal
from coordination.domain.projects.projects import Project
from coordination.services.plans import task_rows
from coordination.services.plans.inherited_authority import InheritedAuthority
from coordination.services.plans.task_rows import AgentChooser, Graph, GraphScope
from coordination.store.bulk import insert_rows
from coordination.store.queries.money import budgets
from coordination.store.queries.tasks import events, new_tasks
from coordination.store.tables.tasks.tasks import dependencies
from coordination.store.types import commit_order, db_now

_UNIQUE_VIOLATION = "23505"  # PostgreSQL's code

Edge = tuple[str, str]
"""The keys of an upstream task and a downstream task."""


def prepare_plan(plan: Plan, works: Mapping[str, Job], project: Project | None, chooser: AgentChooser) -> Graph:
    """Return the graph of a submitted plan, with its variants and the review loop of its supervision or the project's.

    Raises PlanError for an unknown agent or a forbidden model. *project*: None if it does not exist yet.
    """
    settings = {} if project is None else project.settings
    default = settings.get("supervision")
    if plan.supervision is None and isinstance(default, Mapping):
        plan = replace(plan, supervision=supervision_of(default))
    if plan.supervision is not None:
        supervisor = SupervisorSettings.of(settings)
        both = {"assess": supervisor.run(plan.supervision.assess), "analyze": supervisor.run(plan.supervision.analyze)}
        plan = replace(plan, supervision=replace(plan.supervision, **both))
    if plan.supervision is not None or any(task.variants for task in plan.tasks):
        plan = expand(plan)
        works = check_plan(plan)
    return prepare_graph(plan, works, chooser, {} if project is None else project.model_restrictions)


def prepare_graph(
    plan: Plan, works: Mapping[str, Job], chooser: AgentChooser, restrictions: Mapping[str, Any]
) -> Graph:
    """Return the graph of a valid plan for storing. Raises PlanError for an unknown agent or a forbidden model."""
    works, agents = task_rows.resolve_agents(plan, works, chooser)
    graph = Graph(plan, task_rows.job_rows(works), agents)
    check_models(plan, graph.bodies, restrictions)
    return graph


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


def store_graph(
    tx: Connection,
    scope: GraphScope,
    graph: Graph,
    ids: Mapping[str, str],
    *,
    satisfied: Collection[Edge] = (),
    authority: InheritedAuthority | None = None,
    is_new_run: bool = False,
) -> None:
    """Store the tasks of *graph* with their edges, events and budgets. Raises Refused when the run has a key already.

    *ids*: of the new tasks and of those that they need, by key. *satisfied*: edges that do not hold back any more.
    *authority*: of reported tasks.
    """
    plan = graph.plan
    now, txid = tx.execute(select(db_now(), commit_order())).one()
    edges, pending = task_rows.edge_rows(scope.workspace_id, plan, ids)
    satisfied_ids = {(ids[parent], ids[child]) for parent, child in satisfied}
    for edge in edges if satisfied_ids else ():
        if (edge["parent_id"], edge["child_id"]) in satisfied_ids:
            edge["satisfied_at"] = now
            pending[edge["child_id"]] -= 1
    new_rows: Iterable[dict[str, Any]] = (
        task_rows.task_row(scope, graph, task, ids, pending, now=now) for task in plan.tasks
    )
    stated = task_rows.plan_budgets(scope, plan, ids)
    created: dict[str, Mapping[str, Any]] = {} if is_new_run else {task.key: {} for task in plan.tasks}
    if authority is not None:
        new_rows = adjusted = list(new_rows)
        authority.adjust(plan, adjusted)
        edges += authority.edges(plan, ids, {(edge["parent_id"], edge["child_id"]) for edge in edges})
        stated = authority.budgets(plan, ids, stated)
        created = {task.key: authority.origin(task) for task in plan.tasks}
    try:
        new_tasks.insert(tx, scope.workspace_id, new_rows, creator=scope.creator, agents=set(graph.agents.values()))
    except IntegrityError as error:
        if authority is not None or getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        # Another transaction has added the key concurrently; the last task has the requested key.
        raise key_taken(plan.tasks[-1].key) from None
    insert_rows(tx, dependencies, edges)
    budgets.insert_new(tx, scope.workspace_id, stated)
    if is_new_run:
        events.append_created(tx, scope.workspace_id, scope.run_id)
    events.append_bulk(
        tx, scope.workspace_id, task_rows.creation_events(scope, graph, ids, created), now=now, txid=txid
    )


def key_taken(key: str) -> Refused:
    """Return the error for a key that the run has already."""
    return Refused(f"The run has a task {excerpt(key)} already", hint="Use another key")
