"""Submit a plan: all of it is checked before anything is stored, and all of it is stored in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

from sqlalchemy import Connection, select

from coordination.domain import graph
from coordination.domain.events import EventType
from coordination.domain.excerpts import did_you_mean, excerpt
from coordination.domain.issues import Issue
from coordination.domain.plans import Backoff, Plan, Task
from coordination.domain.projects import Project, ProjectStatus
from coordination.domain.sessions import SessionTarget
from coordination.domain.supervision import DEFAULT_LIFETIME
from coordination.domain.tasks import NO_REASON, BlockReason, DependencyKind, TaskState
from coordination.domain.work import AGENTS, AgentCall, PythonCall, Work
from coordination.domain.workspaces import (
    FOLDER,
    Gate,
    Workspace,
    WorkspaceKind,
    gates_for,
    parse_gates,
    parse_workspace,
    run_branch,
)
from coordination.errors import NotFound, PlanError, Refused
from coordination.ids import is_id, new_id
from coordination.services import agents as agent_service
from coordination.services import issues as issue_service
from coordination.services import projects as project_service
from coordination.store.bulk import insert_rows
from coordination.store.queries import events, runs, slots, supervisors
from coordination.store.tables.events import task_events
from coordination.store.tables.tasks import dependencies, tasks
from coordination.store.types import commit_order, db_now

_NOTHING: dict[str, Any] = {}  # one object for all, so that it is written as JSON once
_IN_WORKTREE = " in a worktree"  # a kind of its own: it takes longer


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plan comes from: which project (its identity, a name for people, a folder), and who submits it."""

    identity: str
    name: str
    creator: str
    path: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submitted:
    """What was stored."""

    run_id: str
    project_id: str
    task_ids: dict[str, str]


def submit_plan(
    tx: Connection,
    workspace_id: str,
    plan: Plan,
    origin: Origin,
    *,
    lifetime: timedelta = DEFAULT_LIFETIME,
    issues: Sequence[Issue] | None = None,
) -> Submitted:
    """Store *plan* as a new run. Raises PlanError or Refused with nothing stored.

    *issues*: of a foreign tracker, which become the project's; a task whose metadata name one (``issue``) works it off.
    """
    works: Mapping[str, Work] = graph.check(plan)
    project = project_service.resolve(tx, workspace_id, identity=origin.identity, name=origin.name, path=origin.path)
    if project.status is ProjectStatus.ARCHIVED:
        raise Refused(f"The project {project.name} is archived", hint=f"Run: coord projects activate {project.name}")
    project_service.activate(tx, workspace_id, project)
    run_id = new_id()
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
            "metadata": dict(origin.metadata) | _branch(run_id, plan),
        },
    )
    works, assigned = _assignments(tx, workspace_id, plan, works)
    ids = {task.key: new_id() for task in plan.tasks}
    now, txid = tx.execute(select(db_now(), commit_order())).one()
    scope = _Scope(workspace_id, project.id, run_id, origin, plan, now, assigned, _project_gates(project))
    jobs = _jobs(works)
    edges, pending = _edges(workspace_id, plan, ids)
    insert_rows(tx, tasks, [_row(scope, task, jobs[task.key], ids, pending) for task in plan.tasks])
    insert_rows(tx, dependencies, edges)
    events.append(
        tx,
        workspace_id,
        [
            {
                "project_id": project.id,
                "run_id": run_id,
                "type": EventType.RUN_SUBMITTED,
                "actor": origin.creator,
                "payload": {"tasks": len(ids), "dependencies": len(edges), "name": plan.name},
            }
        ],
    )
    events.append_created(tx, workspace_id, run_id)
    insert_rows(
        tx,
        task_events,
        [_assigned(scope, ids[task.key], txid, agent) for task in plan.tasks if (agent := assigned.get(task.key))],
    )
    _limits(tx, scope)
    if issues is not None:
        linked = [(str(task.metadata["issue"]), ids[task.key]) for task in plan.tasks if "issue" in task.metadata]
        issue_service.replace(tx, workspace_id, project.id, issues, jobs=linked)
    supervisors.ensure(
        tx, workspace_id, project.id, session_key=f"supervisor:{project.name}:{run_id}", lifetime=lifetime
    )
    return Submitted(run_id, project.id, ids)


@dataclass(frozen=True, slots=True)
class _Scope:
    workspace_id: str
    project_id: str
    run_id: str
    origin: Origin
    plan: Plan
    now: datetime
    agents: Mapping[str, str]  # whose each task is, by its key
    gates: tuple[Gate, ...]  # of the project


def _assignments(
    tx: Connection, workspace_id: str, plan: Plan, works: Mapping[str, Work]
) -> tuple[Mapping[str, Work], dict[str, str]]:
    """The works with agents put in for their names, and whose each task is, by its key."""
    desk = agent_service.Desk(tx, workspace_id)
    found, assigned = dict(works), {}
    for task in plan.tasks:
        work, wanted = works[task.key], task.agent or plan.defaults.agent
        try:
            if wanted and (profile := desk.choose(wanted)) is not None:
                wanted = profile.name
            if isinstance(work, AgentCall) and work.agent not in AGENTS:
                chosen = desk.choose(work.agent)
                if chosen is None:
                    known = [*AGENTS, *desk.names]
                    raise Refused(f"There is no agent {excerpt(work.agent)}", hint=did_you_mean(work.agent, known))  # noqa: TRY301 - where the others are caught
                found[task.key], wanted = chosen.call(work), wanted or chosen.name
        except Refused as refused:
            where = f"Task {excerpt(task.key)}: "
            line = plan.lines.get(task.key)
            raise PlanError(where + refused.message, source=plan.source, line=line, hint=refused.hint) from None
        if wanted:
            assigned[task.key] = wanted
    return found, assigned


@dataclass(frozen=True, slots=True)
class _Job:
    """What a task's row says of its job."""

    kind: str
    body: dict[str, Any]


def _jobs(works: Mapping[str, Work]) -> dict[str, _Job]:
    """The jobs by key; tasks that share a Work share the object that is written as JSON."""
    made: dict[int, _Job] = {}
    for work in works.values():
        if id(work) not in made:
            made[id(work)] = _Job(_kind(work), work.to_json())
    return {key: made[id(work)] for key, work in works.items()}


def _edges(workspace_id: str, plan: Plan, ids: Mapping[str, str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows of all dependencies, and how many hold each task back, by its id."""
    holds_back = {kind: kind.holds_back for kind in DependencyKind}
    edges: list[dict[str, Any]] = []
    pending: dict[str, int] = {}
    for task in plan.tasks:
        child_id, waits = ids[task.key], 0
        for need in task.needs:
            key, kind = (need, DependencyKind.BLOCKS) if isinstance(need, str) else (need.key, need.kind)
            waits += holds_back[kind]
            edges.append(
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
    return edges, pending


def _row(scope: _Scope, task: Task, job: _Job, ids: Mapping[str, str], pending: Mapping[str, int]) -> dict[str, Any]:
    defaults = scope.plan.defaults
    task_id = ids[task.key]
    open_edges = pending.get(task_id, 0)
    reasons = BlockReason.DEPENDENCIES if open_edges else NO_REASON
    if task.not_before is not None and task.not_before > scope.now:
        reasons |= BlockReason.NOT_BEFORE
    options = _options(scope, task, job.kind)
    return {
        "id": task_id,
        "workspace_id": scope.workspace_id,
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
        "max_attempts": task.max_attempts if task.max_attempts is not None else defaults.max_attempts,
        "timeout": task.timeout or defaults.timeout,
        "stall_timeout": task.stall_timeout or defaults.stall_timeout,
        "repeatable": task.repeatable,
        "on_dependency_failure": task.on_dependency_failure or defaults.on_dependency_failure,
        "concurrency_key": task.concurrency_key,
        "agent": scope.agents.get(task.key),
        "creator": scope.origin.creator,
        "parent_id": ids[task.parent] if task.parent else None,
        "kind": job.kind + _IN_WORKTREE if "workspace" in options else job.kind,
        "work": job.body,
        "input": dict(task.input) if task.input else _NOTHING,
        "workdir": _workdir(scope, task.workdir or defaults.workdir),
        "options": options,
        "due_at": task.due,
        "created_at": scope.now,
        "updated_at": scope.now,
    }


def _workdir(scope: _Scope, folder: str | None) -> str | None:
    """Where the job runs: a relative folder is meant within the project's."""
    base = scope.origin.path
    if folder is None or base is None:
        return folder or base
    return str(PurePath(base, folder))


def _options(scope: _Scope, task: Task, kind: str) -> dict[str, Any]:
    plan = scope.plan
    backoff = task.backoff or plan.defaults.backoff
    workspace = _workspace(plan, task)
    gates = gates_for(
        kind.partition(":")[0],
        workspace,
        project=scope.gates,
        plan=parse_gates(plan.gates),
        task=parse_gates(task.gates),
    )
    if backoff == Backoff() and not task.metadata and not gates and workspace == FOLDER:
        return _NOTHING
    options: dict[str, Any] = {}
    if workspace != FOLDER:
        options["workspace"] = workspace.to_json()
    if gates:
        options["gates"] = [gate.to_json() for gate in gates]
    if backoff != Backoff():
        options["backoff"] = {
            "initial": backoff.initial.total_seconds(),
            "factor": backoff.factor,
            "maximum": backoff.maximum.total_seconds(),
        }
    if task.metadata:
        options["metadata"] = dict(task.metadata)
    return options


def _workspace(plan: Plan, task: Task) -> Workspace:
    return parse_workspace(plan.defaults.workspace if task.workspace is None else task.workspace)


def _branch(run_id: str, plan: Plan) -> dict[str, str]:
    """Where the run's changes will be, for its metadata: tasks that work in worktrees are merged there."""
    worktrees = any(_workspace(plan, task).kind is WorkspaceKind.GIT_WORKTREE for task in plan.tasks)
    return {"branch": run_branch(run_id)} if worktrees else {}


def _project_gates(project: Project) -> tuple[Gate, ...]:
    return parse_gates(project.settings.get("gates"))


def _kind(work: Work) -> str:
    """What runs, without its arguments: tasks of one kind take about as long as each other."""
    match work:
        case PythonCall():
            what = work.target
        case AgentCall():
            what = work.agent
        case _:
            what = work.command.split(maxsplit=1)[0]
    return f"{work.kind}:{what}"[:200]


def _assigned(scope: _Scope, task_id: str, txid: int, agent: str) -> dict[str, Any]:
    return {
        "txid": txid,
        "workspace_id": scope.workspace_id,
        "project_id": scope.project_id,
        "run_id": scope.run_id,
        "task_id": task_id,
        "type": EventType.ASSIGNED,
        "actor": scope.origin.creator,
        "payload": {"agent": agent},
        "created_at": scope.now,
    }


def _limits(tx: Connection, scope: _Scope) -> None:
    """The plan's limits hold for the project from now on; a key that no limit names is limited to one."""
    concurrency = scope.plan.concurrency
    caps = {f"agent:{name}": cap for name, cap in concurrency.agents.items()}
    caps |= {f"key:{name}": cap for name, cap in concurrency.keys.items()}
    if concurrency.project is not None:
        caps["project"] = concurrency.project
    slots.set_caps(tx, scope.workspace_id, scope.project_id, caps)
    named = {f"key:{task.concurrency_key}" for task in scope.plan.tasks if task.concurrency_key}
    slots.ensure(tx, scope.workspace_id, scope.project_id, dict.fromkeys(named - set(caps), 1))


def _session(tx: Connection, workspace_id: str, project_id: str, plan: Plan) -> str:
    """The session that groups this run's costs: the one named, one of its own (isolated), or the ongoing one."""
    target = SessionTarget.ISOLATED if plan.session == SessionTarget.ISOLATED else SessionTarget.MAIN
    if plan.session is not None and plan.session not in tuple(SessionTarget):
        found = runs.get_session(tx, workspace_id, plan.session) if is_id(plan.session) else None
        if found is None or found.project_id != project_id:
            raise NotFound(
                f"The project has no session {plan.session}",
                hint="Write main (the ongoing one), isolated (a new one) or a session's id: coord sessions list",
            )
        runs.touch_session(tx, workspace_id, [found.id])
        return found.id
    agent = plan.defaults.agent
    ongoing = runs.main_session(tx, workspace_id, project_id, agent) if target is SessionTarget.MAIN else None
    if ongoing is not None:
        runs.touch_session(tx, workspace_id, [ongoing.id])
        return ongoing.id
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
