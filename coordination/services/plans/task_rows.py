"""What is stored of a graph of tasks: their rows, their edges, and whose each task is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any, Protocol

from coordination.base.errors import PlanError, Refused
from coordination.base.ids import new_id
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.agents.agents import Profile
from coordination.domain.jobs import AGENTS, IN_WORKTREE, AgentCall, ChatCall, Job, kind_of
from coordination.domain.jobs.accounts import fits
from coordination.domain.jobs.changed_files import EXPECTS
from coordination.domain.jobs.checkouts import FOLDER, STORED, Checkout, Gate, gates_for, parse_checkout, parse_gates
from coordination.domain.jobs.resource_limits import NO_LIMITS, limits_of
from coordination.domain.money import budgets as budgeting
from coordination.domain.money.budgets import Budget
from coordination.domain.money.caps import budget_of, caps_of
from coordination.domain.money.estimates import parse_stated
from coordination.domain.plans.plan_expansion import VARIANT, WORK
from coordination.domain.plans.plans import Plan, Task
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.task_limits import max_starts
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, DependencyKind, TaskState

_NOTHING: dict[str, Any] = {}  # one object for all, so that it is written as JSON once
_USUAL = Backoff()


@dataclass(frozen=True, slots=True)
class GraphScope:
    """Where tasks are stored, and what is the same for all that are stored together."""

    workspace_id: str
    project_id: str
    run_id: str
    creator: str
    path: str | None
    gates: tuple[Gate, ...] = ()  # of the project
    inherited: Mapping[str, Any] = field(default_factory=dict)  # options of what found them, unless they say otherwise
    authority: Mapping[str, Any] | None = None  # what they may do


class AgentChooser(Protocol):
    """Who knows the workspace's agents."""

    def choose(self, text: str) -> Profile | None:
        """The one that *text* asks for; None for a name that no agent has."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """All there are."""
        ...


def assignments(plan: Plan, works: Mapping[str, Job], desk: AgentChooser) -> tuple[Mapping[str, Job], dict[str, str]]:
    """The works with agents put in for their names, and the default account; and whose each task is, by its key."""
    found, assigned = dict(works), {}
    for task in plan.tasks:
        work, wanted, place = works[task.key], task.agent or plan.defaults.agent, "agent"
        try:
            if wanted and (profile := desk.choose(wanted)) is not None:
                wanted = profile.name
            if isinstance(work, AgentCall) and work.agent not in AGENTS:
                place = "run.agent"
                chosen = desk.choose(work.agent)
                if chosen is None:
                    known = [*AGENTS, *desk.names]
                    raise Refused(f"There is no agent {excerpt(work.agent)}", hint=did_you_mean(work.agent, known))  # noqa: TRY301 - where the others are caught
                found[task.key], wanted = chosen.call(work), wanted or chosen.name
        except Refused as refused:
            where = f"Task {excerpt(task.key)}: "
            line = plan.lines.get(task.key)
            field = f"tasks.{task.key}.{place}"
            raise PlanError(
                where + refused.message, source=plan.source, line=line, hint=refused.hint, field=field
            ) from None
        if wanted:
            assigned[task.key] = wanted
    if plan.defaults.account is not None:
        found = _with_account(found, plan.defaults.account)
    return found, assigned


def _with_account(works: Mapping[str, Job], account: str) -> dict[str, Job]:
    """*works* in which those that *account* fits, and that name none, have it. What shares a Job still does."""
    made: dict[int, Job] = {}
    for work in works.values():
        if id(work) in made:
            continue
        made[id(work)] = work
        if isinstance(work, AgentCall | ChatCall) and work.account is None and fits(account, work.provider):
            made[id(work)] = replace(work, account=account)
    return {key: made[id(work)] for key, work in works.items()}


@dataclass(frozen=True, slots=True)
class JobRow:
    """What a task's row says of its job."""

    kind: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks that can be stored: a checked plan, the job of each task, and whose each one is, by its key."""

    plan: Plan
    jobs: Mapping[str, JobRow]
    agents: Mapping[str, str]

    @property
    def bodies(self) -> dict[str, dict[str, Any]]:
        """Return what each task's job says, by its key."""
        return {key: job.body for key, job in self.jobs.items()}


def jobs(works: Mapping[str, Job]) -> dict[str, JobRow]:
    """The jobs by key; tasks that share a Job share the object that is written as JSON."""
    made: dict[int, JobRow] = {}
    for work in works.values():
        if id(work) not in made:
            body = work.to_json()
            made[id(work)] = JobRow(kind_of(body), body)
    return {key: made[id(work)] for key, work in works.items()}


def edges(workspace_id: str, plan: Plan, ids: Mapping[str, str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows of all dependencies, and how many hold each task back, by its id."""
    holds_back = {kind: kind.holds_back for kind in DependencyKind}
    found: list[dict[str, Any]] = []
    pending: dict[str, int] = {}
    for task in plan.tasks:
        child_id, waits = ids[task.key], 0
        for need in task.needs:
            key, kind = (need, DependencyKind.BLOCKS) if isinstance(need, str) else (need.key, need.kind)
            waits += holds_back[kind]
            found.append(
                {
                    "parent_id": ids[key],
                    "child_id": child_id,
                    "workspace_id": workspace_id,
                    "kind": kind,
                    "satisfied_at": None,
                }
            )
        if waits:
            pending[child_id] = waits
    return found, pending


def row(
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
        "kind": job.kind + IN_WORKTREE if STORED in options else job.kind,
        "work": job.body,
        "input": dict(task.input) if task.input else _NOTHING,
        "workdir": _workdir(scope, task.workdir or defaults.workdir),
        "options": _joined(_inherited(scope, task), options) if scope.inherited else options,
        "due_at": task.due,
        "created_at": now,
        "updated_at": now,
    }


def _workdir(scope: GraphScope, folder: str | None) -> str | None:
    """Where the job runs: a relative folder is meant within the project's."""
    base = scope.path
    if folder is None or base is None:
        return folder or base
    return str(PurePath(base, folder))


def _inherited(scope: GraphScope, task: Task) -> dict[str, Any]:
    own = {STORED} if task.checkout is not None else set()
    if task.role and not task.role.keys() & {WORK, VARIANT}:
        own = {STORED, "gates"}  # what looks at the work of others has nothing to merge, and nothing to pass
    return {name: value for name, value in scope.inherited.items() if name not in own}


def _joined(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a task that another one found: it adds gates and lowers limits, and takes none away."""
    joined = {**inherited, **own}
    if "gates" in inherited and "gates" in own:
        joined["gates"] = [*inherited["gates"], *(gate for gate in own["gates"] if gate not in inherited["gates"])]
    if "limits" in inherited and "limits" in own:
        joined["limits"] = limits_of(own).or_else(limits_of(inherited)).to_json()
    return joined


def _options(scope: GraphScope, plan: Plan, task: Task, kind: str) -> dict[str, Any]:
    backoff, limits = task.backoff or plan.defaults.backoff, task.limits.or_else(plan.defaults.limits)
    checkout = checkout_of(plan, task)
    gates = gates_for(
        kind.partition(":")[0],
        checkout,
        project=scope.gates,
        plan=parse_gates(plan.gates),
        task=parse_gates(task.gates),
    )
    options: dict[str, Any] = {}
    if task.role:
        options["role"] = dict(task.role)
    if checkout != FOLDER:
        options[STORED] = checkout.to_json()
    if gates:
        options["gates"] = [gate.to_json() for gate in gates]
    if limits != NO_LIMITS:
        options["limits"] = limits.to_json()
    if backoff != _USUAL:
        options["backoff"] = {
            "initial": backoff.initial.total_seconds(),
            "factor": backoff.factor,
            "maximum": backoff.maximum.total_seconds(),
        }
    _say_more(options, task)
    return options or _NOTHING


def _say_more(options: dict[str, Any], task: Task) -> None:
    """What few tasks have."""
    if task.outputs:
        options["outputs"] = list(task.outputs)
    if task.criteria:
        options["criteria"] = list(task.criteria)
    if not task.context:
        options["bare"] = True
    if task.estimate:
        options["estimate"] = parse_stated(task.estimate)
    if task.expects is not None:
        options[EXPECTS] = task.expects
    if task.metadata:
        options["metadata"] = dict(task.metadata)


def checkout_of(plan: Plan, task: Task) -> Checkout:
    """Where a task of the plan works."""
    return parse_checkout(plan.defaults.checkout if task.checkout is None else task.checkout)


def caps(plan: Plan) -> dict[str, int]:
    """How many tasks the plan lets run at once, by the name of the limit."""
    limits = plan.concurrency
    found = {f"agent:{name}": cap for name, cap in limits.agents.items()}
    found |= {f"key:{name}": cap for name, cap in limits.keys.items()}
    return found | ({} if limits.project is None else {"project": limits.project})


def limited_keys(plan: Plan) -> set[str]:
    """The limits that the plan's tasks have by their keys; one that nothing else is said of is a limit to one."""
    return {f"key:{task.concurrency_key}" for task in plan.tasks if task.concurrency_key}


def events(
    scope: GraphScope, graph: Graph, ids: Mapping[str, str], created: Mapping[str, Mapping[str, Any]]
) -> list[NewEvent]:
    """Return the events of new tasks: that those in *created* (their payloads by key) were, and whose tasks are."""
    new = [(EventType.CREATED, key, payload) for key, payload in created.items()]
    new += [(EventType.ASSIGNED, key, {"agent": agent}) for key, agent in graph.agents.items()]
    run = scope.project_id, scope.run_id
    return [NewEvent(type_, *run, ids[key], actor=scope.creator, payload=payload) for type_, key, payload in new]


def budgets(scope: GraphScope, plan: Plan, ids: Mapping[str, str]) -> list[Budget]:
    """Return the caps of the plan's run and of its tasks."""
    wanted = [(budgeting.BudgetScope.RUN, scope.run_id, plan.budget)]
    wanted += [(budgeting.BudgetScope.TASK, ids[task.key], task.budget) for task in plan.tasks]
    return [
        budget_of(
            caps_of(cap.said()),
            Budget(
                new_id(),
                which,
                subject,
                project_id=scope.project_id,
                run_id=scope.run_id,
                set_by=scope.creator,
            ),
        )
        for which, subject, cap in wanted
        if cap is not None
    ]
