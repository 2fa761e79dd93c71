"""Stores the graph of a submitted or discovered plan: tasks with limits, dependencies, budgets and events."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any, Protocol

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from coordination.base.errors import PlanError, Refused
from coordination.base.ids import new_id
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.agents.agents import Profile
from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.jobs import AGENTS, IN_WORKTREE, AgentCall, ChatCall, Job, kind_label
from coordination.domain.jobs.accounts import account_fits
from coordination.domain.jobs.changed_files import EXPECTS
from coordination.domain.jobs.checkouts import (
    CHECKOUT_OPTION,
    FOLDER,
    CheckoutKind,
    Gate,
    gates_for,
    parse_gates,
    run_branch,
)
from coordination.domain.jobs.resource_limits import NO_LIMITS, limits_of
from coordination.domain.money.budgets import Budget, BudgetScope
from coordination.domain.money.caps import parse_caps, with_caps
from coordination.domain.money.estimates import parse_estimate
from coordination.domain.plans.graph import check_plan
from coordination.domain.plans.plan_expansion import VARIANT, VARIANTS, WORK, expand, supervision_of
from coordination.domain.plans.plans import Plan, Task
from coordination.domain.projects.model_policy import parse_restrictions, refusal, steps_to_allow
from coordination.domain.projects.projects import Project
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, DependencyKind, TaskState, max_starts
from coordination.services.plans.inherited_authority import InheritedAuthority
from coordination.store.driver import insert_rows
from coordination.store.queries.money import budgets
from coordination.store.queries.tasks import dependencies as dependency_rows
from coordination.store.queries.tasks import events, slots, tasks
from coordination.store.tables.tasks.tasks import dependencies
from coordination.store.types import commit_order, db_now

_NOTHING: dict[str, Any] = {}  # shared, so that it is serialized once
_DEFAULT_BACKOFF = Backoff()
_HOLDS_BACK = {kind: kind.holds_back for kind in DependencyKind}
_UNIQUE_VIOLATION = "23505"  # PostgreSQL's code

Edge = tuple[str, str]
"""The keys of an upstream task and a downstream task."""


@dataclass(frozen=True, slots=True)
class GraphScope:
    """The run of new tasks, and the values that are the same for all of them."""

    workspace_id: str
    project_id: str
    run_id: str
    creator: str
    path: str | None
    gates: tuple[Gate, ...] = ()  # of the project
    inherited: Mapping[str, Any] = field(default_factory=dict)  # options of their reporter, as defaults
    authority: Mapping[str, Any] | None = None


class AgentChooser(Protocol):
    """Access to the agents of a workspace."""

    def choose(self, text: str) -> Profile | None:
        """Return the agent for *text*, or None for an unknown name."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Return the names of all agents."""
        ...


def resolve_agents(
    plan: Plan, works: Mapping[str, Job], chooser: AgentChooser
) -> tuple[Mapping[str, Job], dict[str, str]]:
    """Return the jobs, with named agents replaced by their runners, and the agent of each task, by the tasks' keys."""
    jobs, agents = dict(works), {}
    for task in plan.tasks:
        work, agent, place = works[task.key], task.agent or plan.defaults.agent, "agent"
        try:
            if agent and (profile := chooser.choose(agent)) is not None:
                agent = profile.name
            if isinstance(work, AgentCall) and work.agent not in AGENTS:
                place = "run.agent"
                runner = chooser.choose(work.agent)
                if runner is None:
                    names = [*AGENTS, *chooser.names]
                    raise Refused(f"There is no agent {excerpt(work.agent)}", hint=did_you_mean(work.agent, names))  # noqa: TRY301 - caught below
                jobs[task.key], agent = runner.build_job(work), agent or runner.name
        except Refused as refused:
            message = f"Task {excerpt(task.key)}: {refused.message}"
            line = plan.lines.get(task.key)
            field = f"tasks.{task.key}.{place}"
            raise PlanError(message, source=plan.source, line=line, hint=refused.hint, field=field) from None
        if agent:
            agents[task.key] = agent
    if plan.defaults.account is not None:
        jobs = _with_account(jobs, plan.defaults.account)
    return jobs, agents


def _with_account(works: Mapping[str, Job], account: str) -> dict[str, Job]:
    """Set *account* in the jobs without one that may use it. Tasks that share a Job still do."""
    jobs: dict[int, Job] = {}
    for work in works.values():
        if id(work) in jobs:
            continue
        jobs[id(work)] = work
        if isinstance(work, AgentCall | ChatCall) and work.account is None and account_fits(account, work.provider):
            jobs[id(work)] = replace(work, account=account)
    return {key: jobs[id(work)] for key, work in works.items()}


@dataclass(frozen=True, slots=True)
class JobRow:
    """The columns of a task's job."""

    kind: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Graph:
    """A valid plan for storing, with the job and the agent of each task by its key."""

    plan: Plan
    jobs: Mapping[str, JobRow]
    agents: Mapping[str, str]

    @property
    def bodies(self) -> dict[str, dict[str, Any]]:
        """Return the JSON form of each task's job, by the task's key."""
        return {key: job.body for key, job in self.jobs.items()}


def job_rows(works: Mapping[str, Job]) -> dict[str, JobRow]:
    """Return the columns of the jobs by key. Tasks that share a Job share the row, which is then serialized once."""
    rows: dict[int, JobRow] = {}
    for work in works.values():
        if id(work) not in rows:
            body = work.to_json()
            rows[id(work)] = JobRow(kind_label(body), body)
    return {key: rows[id(work)] for key, work in works.items()}


# --- rows, limits, events and budgets


def edge_rows(workspace_id: str, plan: Plan, ids: Mapping[str, str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rows of all dependencies, and the number of those that hold back each task, by its id."""
    rows: list[dict[str, Any]] = []
    pending: dict[str, int] = {}
    for task in plan.tasks:
        child_id, waits = ids[task.key], 0
        for need in task.needs:
            key, kind = (need, DependencyKind.BLOCKS) if isinstance(need, str) else (need.key, need.kind)
            waits += _HOLDS_BACK[kind]
            rows.append(dependency_rows.row_of(workspace_id, ids[key], child_id, kind))
        if waits:
            pending[child_id] = waits
    return rows, pending


def task_row(
    scope: GraphScope, graph: Graph, task: Task, ids: Mapping[str, str], pending: Mapping[str, int], *, now: datetime
) -> dict[str, Any]:
    """Return the row of a new task."""
    defaults, job = graph.plan.defaults, graph.jobs[task.key]
    task_id = ids[task.key]
    open_edges = pending.get(task_id, 0)
    reasons = BlockReason.DEPENDENCIES if open_edges else NO_REASON
    if task.not_before is not None and task.not_before > now:
        reasons |= BlockReason.NOT_BEFORE
    options = _options(scope, graph.plan, task, job.kind)
    max_attempts = task.max_attempts if task.max_attempts is not None else defaults.max_attempts
    return {
        "id": task_id,
        "project_id": scope.project_id,
        "run_id": scope.run_id,
        "key": task.key,
        "title": task.title or task.key,
        "state": TaskState.BLOCKED if reasons else TaskState.QUEUED,
        "reasons": reasons,
        "pending": open_edges,
        "attempt": 0,
        "priority": task.priority,
        "not_before": task.not_before,
        "failures": 0,
        "losses": 0,
        "deferrals": 0,
        "max_attempts": max_attempts,
        "max_starts": max_starts(task.max_starts, defaults.max_starts, max_attempts=max_attempts),
        "timeout": task.timeout or defaults.timeout,
        "stall_timeout": task.stall_timeout or defaults.stall_timeout,
        "repeatable": task.repeatable,
        "on_dependency_failure": task.on_dependency_failure or defaults.on_dependency_failure,
        "concurrency_key": task.concurrency_key,
        "agent": graph.agents.get(task.key),
        "authority": scope.authority,
        "parent_id": ids[task.parent] if task.parent else None,
        "kind": job.kind + IN_WORKTREE if CHECKOUT_OPTION in options else job.kind,
        "work": job.body,
        "input": dict(task.input) if task.input else _NOTHING,
        "workdir": _workdir(scope, task.workdir or defaults.workdir),
        "options": _joined(_inherited(scope, task), options) if scope.inherited else options,
        "due_at": task.due,
        "created_at": now,
        "updated_at": now,
    }


def _workdir(scope: GraphScope, folder: str | None) -> str | None:
    """Return the folder where the job runs; relative folders are in the project's folder."""
    base = scope.path
    if folder is None or base is None:
        return folder or base
    return str(PurePath(base, folder))


def _inherited(scope: GraphScope, task: Task) -> dict[str, Any]:
    own = {CHECKOUT_OPTION} if task.checkout is not None else set()
    if task.role and not task.role.keys() & {WORK, VARIANT}:
        own = {CHECKOUT_OPTION, "gates"}  # tasks that only review other tasks
    return {name: value for name, value in scope.inherited.items() if name not in own}


def _joined(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a reported task, which may add gates and lower limits, but not remove them."""
    joined = {**inherited, **own}
    if "gates" in inherited and "gates" in own:
        joined["gates"] = [*inherited["gates"], *(gate for gate in own["gates"] if gate not in inherited["gates"])]
    if "limits" in inherited and "limits" in own:
        joined["limits"] = limits_of(own).or_else(limits_of(inherited)).to_json()
    return joined


def _options(scope: GraphScope, plan: Plan, task: Task, kind: str) -> dict[str, Any]:
    backoff, limits = task.backoff or plan.defaults.backoff, plan.defaults.limits
    if task.limits is not NO_LIMITS:
        limits = task.limits.or_else(limits)
    checkout = plan.checkout_of(task)
    options: dict[str, Any] = {}
    if task.role:
        options["role"] = dict(task.role)
    if checkout != FOLDER:
        options[CHECKOUT_OPTION] = checkout.to_json()
    if scope.gates or plan.gates or task.gates:
        plan_gates, task_gates = parse_gates(plan.gates), parse_gates(task.gates)
        gates = gates_for(kind.partition(":")[0], checkout, project=scope.gates, plan=plan_gates, task=task_gates)
        if gates:
            options["gates"] = [gate.to_json() for gate in gates]
    if limits != NO_LIMITS:
        options["limits"] = limits.to_json()
    if backoff != _DEFAULT_BACKOFF:
        options["backoff"] = {
            "initial": backoff.initial.total_seconds(),
            "factor": backoff.factor,
            "maximum": backoff.maximum.total_seconds(),
        }
    _add_rare_options(options, task)
    return options or _NOTHING


def _add_rare_options(options: dict[str, Any], task: Task) -> None:
    if task.outputs:
        options["outputs"] = list(task.outputs)
    if task.criteria:
        options["criteria"] = list(task.criteria)
    if not task.context:
        options["bare"] = True
    if task.estimate:
        options["estimate"] = parse_estimate(task.estimate)
    if task.expects is not None:
        options[EXPECTS] = task.expects
    if task.metadata:
        options["metadata"] = dict(task.metadata)


def run_metadata(plan: Plan, run_id: str) -> dict[str, Any]:
    """Return the run's metadata that follows from tasks: the branch where worktrees are merged, and variants."""
    worktrees = any(plan.checkout_of(task).kind is CheckoutKind.GIT_WORKTREE for task in plan.tasks)
    variants = any(VARIANT in task.role for task in plan.tasks)
    return ({"branch": run_branch(run_id)} if worktrees else {}) | ({VARIANTS: True} if variants else {})


def concurrency_caps(plan: Plan) -> dict[str, int]:
    """Return the plan's concurrency limits by their stored names."""
    limits = plan.concurrency
    caps = {f"agent:{name}": cap for name, cap in limits.agents.items()}
    caps |= {f"key:{name}": cap for name, cap in limits.keys.items()}
    return caps | ({} if limits.project is None else {"project": limits.project})


def limited_keys(plan: Plan) -> set[str]:
    """Return the stored names of the limits of the tasks' concurrency keys, whose default is one."""
    return {f"key:{task.concurrency_key}" for task in plan.tasks if task.concurrency_key}


def slot_caps(tx: Connection, project: Project, plan: Plan) -> dict[str, int]:
    """Return how many tasks may run at once by the limits of the project and the plan, by the names of the limits."""
    caps = dict.fromkeys(limited_keys(plan), 1)
    caps |= {row["name"]: row["cap"] for row in slots.list_slots(tx, project.workspace_id, project.id)}
    return caps | concurrency_caps(plan)


def creation_events(
    scope: GraphScope, graph: Graph, ids: Mapping[str, str], created: Mapping[str, Mapping[str, Any]]
) -> list[NewEvent]:
    """Return the events of new tasks: CREATED for those in *created* (payloads by key), and ASSIGNED."""
    new = [(EventType.CREATED, key, payload) for key, payload in created.items()]
    new += [(EventType.ASSIGNED, key, {"agent": agent}) for key, agent in graph.agents.items()]
    run = scope.project_id, scope.run_id
    return [NewEvent(type_, *run, ids[key], actor=scope.creator, payload=payload) for type_, key, payload in new]


def plan_budgets(scope: GraphScope, plan: Plan, ids: Mapping[str, str]) -> list[Budget]:
    """Return the budgets of the plan's run and of its tasks."""
    caps = [(BudgetScope.RUN, scope.run_id, plan.budget)]
    caps += [(BudgetScope.TASK, ids[task.key], task.budget) for task in plan.tasks]
    return [
        with_caps(
            parse_caps(cap.to_mapping()),
            Budget(
                new_id(),
                budget_scope,
                subject,
                project_id=scope.project_id,
                run_id=scope.run_id,
                set_by=scope.creator,
            ),
        )
        for budget_scope, subject, cap in caps
        if cap is not None
    ]


# --- preparing and storing


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
    return prepare_graph(plan, works, chooser, project)


def prepare_graph(plan: Plan, works: Mapping[str, Job], chooser: AgentChooser, project: Project | None) -> Graph:
    """Return the graph of a valid plan for storing. Raises PlanError for an unknown agent or a forbidden model."""
    works, agents = resolve_agents(plan, works, chooser)
    graph = Graph(plan, job_rows(works), agents)
    check_models(plan, graph.bodies, project)
    return graph


def check_models(plan: Plan, bodies: Mapping[str, Mapping[str, Any]], project: Project | None) -> None:
    """Raise PlanError, with the line, for the first task whose model the project does not allow.

    Raises Refused when its restrictions of models are invalid.
    """
    if project is None or (restrictions := parse_restrictions(project.model_restrictions)) is None:
        return
    for task in plan.tasks:
        if why := refusal(bodies[task.key], restrictions):
            allow = steps_to_allow(project.name, project.model_restrictions, [bodies[task.key]])[-1]
            raise PlanError(
                f"Task {excerpt(task.key)}: {why}",
                source=plan.source,
                line=plan.lines.get(task.key),
                hint=f"Use another model, or {allow.sentence()}",
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
    edges, pending = edge_rows(scope.workspace_id, plan, ids)
    satisfied_ids = {(ids[parent], ids[child]) for parent, child in satisfied}
    for edge in edges if satisfied_ids else ():
        if (edge["parent_id"], edge["child_id"]) in satisfied_ids:
            edge["satisfied_at"] = now
            pending[edge["child_id"]] -= 1
    new_rows: Iterable[dict[str, Any]] = (task_row(scope, graph, task, ids, pending, now=now) for task in plan.tasks)
    stated = plan_budgets(scope, plan, ids)
    created: dict[str, Mapping[str, Any]] = {} if is_new_run else {task.key: {} for task in plan.tasks}
    if authority is not None:
        new_rows = adjusted = list(new_rows)
        authority.adjust(plan, adjusted)
        edges += authority.edges(plan, ids, {(edge["parent_id"], edge["child_id"]) for edge in edges})
        stated = authority.budgets(plan, ids, stated)
        created = {task.key: authority.origin(task) for task in plan.tasks}
    try:
        tasks.insert(tx, scope.workspace_id, new_rows, creator=scope.creator, agents=set(graph.agents.values()))
    except IntegrityError as error:
        if authority is not None or getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        # Another transaction has added the key concurrently; the last task has the requested key.
        raise key_taken(plan.tasks[-1].key) from None
    insert_rows(tx, dependencies, edges)
    budgets.insert_new(tx, scope.workspace_id, stated)
    if is_new_run:
        events.append_created(tx, scope.workspace_id, scope.run_id)
    events.append_bulk(tx, scope.workspace_id, creation_events(scope, graph, ids, created), now=now, txid=txid)


def key_taken(key: str) -> Refused:
    """Return the error for a key that the run has already."""
    return Refused(f"The run has a task {excerpt(key)} already", hint="Use another key")
