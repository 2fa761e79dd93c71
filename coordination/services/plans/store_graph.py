"""Store a graph of tasks: the one path for submitted plans, discovered tasks, and tasks that people add."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.jobs import Job
from coordination.domain.plans.plans import Plan
from coordination.services.plans import task_rows
from coordination.services.plans.check_models import check_models
from coordination.services.plans.lending import LentAuthority
from coordination.services.plans.task_rows import AgentChooser, Graph, GraphScope
from coordination.store.bulk import insert_rows
from coordination.store.queries.money import budgets
from coordination.store.queries.tasks import events, new_tasks
from coordination.store.tables.tasks.tasks import dependencies
from coordination.store.types import commit_order, db_now

_TAKEN = "23505"  # a key of a table is there already, as PostgreSQL says it

Edge = tuple[str, str]
"""The keys of a parent and its child."""


def prepare_graph(plan: Plan, works: Mapping[str, Job], desk: AgentChooser, restrictions: Mapping[str, Any]) -> Graph:
    """Return what is to be stored of a checked plan. Raise PlanError for an unknown agent or a forbidden model."""
    works, agents = task_rows.assignments(plan, works, desk)
    graph = Graph(plan, task_rows.jobs(works), agents)
    check_models(plan, graph.bodies, restrictions)
    return graph


def store_graph(
    tx: Connection,
    scope: GraphScope,
    graph: Graph,
    ids: Mapping[str, str],
    *,
    satisfied: Collection[Edge] = (),
    loan: LentAuthority | None = None,
    is_new_run: bool = False,
) -> None:
    """Store the tasks of *graph* with their edges, events and budgets. Refused when a key of the run is taken.

    *ids*: of the new tasks and of those that they need, by key. *satisfied*: edges that hold nothing back any more.
    *loan*: what the attempt that discovered the tasks passes on to them.
    """
    plan = graph.plan
    now, txid = tx.execute(select(db_now(), commit_order())).one()
    edges, pending = task_rows.edges(scope.workspace_id, plan, ids)
    met = {(ids[parent], ids[child]) for parent, child in satisfied}
    for edge in edges if met else ():
        if (edge["parent_id"], edge["child_id"]) in met:
            edge["satisfied_at"] = now
            pending[edge["child_id"]] -= 1
    new_rows: Iterable[dict[str, Any]] = (
        task_rows.row(scope, graph, task, ids, pending, now=now) for task in plan.tasks
    )
    stated = task_rows.budgets(scope, plan, ids)
    created: dict[str, Mapping[str, Any]] = {} if is_new_run else {task.key: {} for task in plan.tasks}
    if loan is not None:
        new_rows = adjusted = list(new_rows)
        loan.adjust(plan, adjusted)
        edges += loan.edges(plan, ids, {(edge["parent_id"], edge["child_id"]) for edge in edges})
        stated = loan.budgets(plan, ids, stated)
        created = {task.key: loan.origin(task) for task in plan.tasks}
    try:
        new_tasks.insert(tx, scope.workspace_id, new_rows, creator=scope.creator, agents=set(graph.agents.values()))
    except IntegrityError as error:
        if loan is not None or getattr(error.orig, "sqlstate", None) != _TAKEN:
            raise
        # Somebody has added it since this transaction has looked; the last task has the key that was asked for.
        raise key_taken(plan.tasks[-1].key) from None
    insert_rows(tx, dependencies, edges)
    budgets.put_new(tx, scope.workspace_id, stated)
    if is_new_run:
        events.append_created(tx, scope.workspace_id, scope.run_id)
    events.append_bulk(tx, scope.workspace_id, task_rows.events(scope, graph, ids, created), now=now, txid=txid)


def key_taken(key: str) -> Refused:
    """Return the refusal of a task whose key the run has already."""
    return Refused(f"The run has a task {excerpt(key)} already", hint="Give the new one another key")
