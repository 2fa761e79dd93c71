"""Adds tasks that attempts report to the run of the reporting task, the *reporter*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import NotFound, Refused
from coordination.base.ids import new_id
from coordination.base.wording import excerpt
from coordination.domain.jobs import Job
from coordination.domain.jobs.accounts import DEFAULT_ACCOUNT
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION, without_merge
from coordination.domain.money.estimates import asks_a_model
from coordination.domain.plans import graph
from coordination.domain.plans.plan_expansion import SUPERVISION, VARIANT, VARIANTS, expand, supervision_of
from coordination.domain.plans.plans import Defaults, Dependency, Plan
from coordination.domain.plans.plans import Task as Planned
from coordination.domain.projects.projects import Project
from coordination.domain.tasks.attempts import DiscoveredTask
from coordination.domain.tasks.tasks import OPEN, BlockReason, OnDependencyFailure, TaskRecord, TaskState
from coordination.formats.plan import read_tasks
from coordination.services.plans.inherited_authority import InheritedAuthority
from coordination.services.plans.store_graph import AgentChooser, GraphScope, key_taken, prepare_graph, store_graph
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.tasks import dependencies as edge_rows
from coordination.store.queries.tasks import events, ready, runs
from coordination.store.queries.tasks import tasks as task_rows

MOST_AT_ONCE = 100
MOST_IN_A_RUN = 1_000
DEEPEST = 5
"""The maxima of reported tasks per call and per run, and of the depth of tasks that reported tasks report."""

_INHERITED = (CHECKOUT_OPTION, "gates", "limits")
_DEPTH = "depth"


@dataclass(frozen=True, slots=True)
class AddedTasks:
    """The ids of all reported tasks by key, and the number of newly ready tasks."""

    ids: Mapping[str, str] = field(default_factory=dict)
    ready: int = 0


def add_tasks(
    tx: Connection, workspace_id: str, reporter_id: str, discovered: Sequence[DiscoveredTask], agents: AgentChooser
) -> AddedTasks:
    """Add reported tasks to the run of their reporter. Raises Refused or PlanError, with nothing stored.

    A task that is reported again, by a later attempt, is not added again. A blocked reporter waits for the tasks that
    come first; a running one does not wait.
    """
    reporter = task_rows.get(tx, workspace_id, reporter_id)
    if reporter is None:
        raise NotFound(f"There is no task {reporter_id}")
    if not discovered:
        return AddedTasks()
    planned = read_tasks([report.task for report in discovered], source=f"reported by {reporter.key}")
    planned = tuple(
        replace(task, role=report.role, supervised=False)
        if report.role
        else task
        if report.by_system or report.delegated
        else replace(task, agent=task.agent or reporter.agent)
        for task, report in zip(planned, discovered, strict=True)
    )
    _check_bounds(tx, reporter, planned)
    authority = InheritedAuthority(tx, reporter, discovered)
    authority.check_fields(planned)
    stored = task_rows.lock_by_key(tx, workspace_id, reporter.run_id, _all_keys(planned))
    planned, repeated = _split_repeated(planned, stored, reporter)
    authority.set_keys(planned)
    first = authority.blocks_finder
    new = [task for task in planned if task.key not in repeated]
    metadata = runs.metadata_of(tx, reporter.workspace_id, reporter.run_id) if new else {}
    plan = Plan(new, defaults=_defaults(reporter, metadata.get(DEFAULT_ACCOUNT)))
    works: Mapping[str, Job] = graph.check_plan(plan, existing=stored) if new else {}
    check_needs(new, stored, reporter, first)
    if new and (expanded := _expand(tx, reporter, plan, metadata.get(SUPERVISION))) is not plan:
        plan, works = expanded, graph.check_plan(expanded, existing=stored)
    satisfied = check_needs(plan.tasks, stored, reporter, set())
    ids = {key: task.id for key, task in stored.items()} | {task.key: new_id() for task in plan.tasks}
    if new:
        graph_ = prepare_graph(plan, works, agents, _project_with_models(tx, reporter, works))
        store_graph(tx, _scope(reporter), graph_, ids, satisfied=satisfied, authority=authority)
    waits_for = [key for key in first if key not in repeated or stored[key].state in OPEN]
    queued = sum(not has_open_needs(task, satisfied) for task in plan.tasks)
    if reporter.state is TaskState.BLOCKED and reporter.reasons & BlockReason.DEPENDENCIES and first:
        completed = [ids[key] for key in first if key not in waits_for]
        more = edge_rows.add_waits(tx, workspace_id, reporter.id, [ids[key] for key in waits_for], completed)
        if waits_for:
            task_rows.add_pending(tx, workspace_id, reporter.id, more)
        elif not reporter.pending:
            lifted = ready.lift_from(tx, workspace_id, [reporter.id], BlockReason.DEPENDENCIES)
            actor = f"task:{reporter.key}"
            queued += events.append_unblocked(tx, workspace_id, reporter.project_id, lifted, actor=actor)
    pairs = zip(discovered, planned, strict=True)
    return AddedTasks({str(report.task["key"]): ids[task.key] for report, task in pairs}, queued)


def _check_bounds(tx: Connection, reporter: TaskRecord, planned: Sequence[Planned]) -> None:
    if len(planned) > MOST_AT_ONCE:
        raise Refused(f"{len(planned):,} tasks were reported at once; at most {MOST_AT_ONCE} are possible")
    if reporter.options.get(_DEPTH, 0) >= DEEPEST:
        raise Refused(
            f"{reporter.key} was reported by a reported task itself, at a depth of {DEEPEST}",
            hint="Add the tasks to the plan, or ask a person",
        )
    _check_room(tx, reporter, len(planned))


def _check_room(tx: Connection, reporter: TaskRecord, more: int) -> None:
    before = task_rows.count_discovered(tx, reporter.workspace_id, reporter.run_id)
    if before + more > MOST_IN_A_RUN:
        raise Refused(f"The tasks of this run have reported {before:,} tasks; at most {MOST_IN_A_RUN:,} are possible")


def _expand(tx: Connection, reporter: TaskRecord, plan: Plan, supervision: Mapping[str, Any] | None) -> Plan:
    """Return the *plan* of reported tasks with their variants and the review loop of the run's *supervision*.

    Tasks at the maximum depth are not reviewed: they could not be sent back, because that reports another task.
    """
    if supervision and reporter.options.get(_DEPTH, 0) + 1 < DEEPEST:
        expanded = expand(replace(plan, supervision=supervision_of(supervision)))
    else:
        expanded = expand(plan)
    parts = sorted({task.key for task in expanded.tasks} - {task.key for task in plan.tasks})
    if parts:
        _check_room(tx, reporter, len(expanded.tasks))
        if conflicts := task_rows.lock_by_key(tx, reporter.workspace_id, reporter.run_id, parts):
            raise key_taken(min(conflicts))
    if any(VARIANT in task.role for task in expanded.tasks):
        runs.add_metadata(tx, reporter.workspace_id, reporter.run_id, {VARIANTS: True})
    return expanded


def _all_keys(planned: Sequence[Planned]) -> list[str]:
    keys = {key for task in planned for key in (task.key, *(need_key(need) for need in task.needs))}
    return sorted(keys | {task.parent for task in planned if task.parent is not None})


def need_key(need: str | Dependency) -> str:
    """Return the key of the needed task."""
    return need if isinstance(need, str) else need.key


def _holds_back(need: str | Dependency) -> bool:
    return isinstance(need, str) or need.kind.holds_back


def _split_repeated(
    planned: Sequence[Planned], stored: Mapping[str, TaskRecord], reporter: TaskRecord
) -> tuple[tuple[Planned, ...], frozenset[str]]:
    """Return the tasks, and the keys of those that the reporter has reported before. Other known keys are refused.

    A task that was reported before and failed or was canceled is added again with a new key.
    """
    repeated: set[str] = set()
    new_keys: dict[str, str] = {}
    for task in planned:
        before = stored.get(task.key)
        if before is None:
            continue
        if before.creator != task_rows.TASK_CREATOR + reporter.key:
            raise key_taken(task.key)
        if before.state in {TaskState.FAILED, TaskState.CANCELED}:
            new_keys[task.key] = f"{task.key}.{reporter.attempt}"
        else:
            repeated.add(task.key)
    return tuple(_rename(task, new_keys) for task in planned) if new_keys else tuple(planned), frozenset(repeated)


def _rename(task: Planned, new_keys: Mapping[str, str]) -> Planned:
    needs = [
        new_keys.get(need, need) if isinstance(need, str) else replace(need, key=new_keys.get(need.key, need.key))
        for need in task.needs
    ]
    return replace(task, key=new_keys.get(task.key, task.key), needs=needs)


def check_needs(
    new: Sequence[Planned], stored: Mapping[str, TaskRecord], reporter: TaskRecord | None, first: set[str]
) -> set[tuple[str, str]]:
    """Return the satisfied dependencies of new tasks on stored ones, as (parent, child) keys. Raises Refused.

    *first*: keys of tasks before the reporter, which must not need unfinished tasks that it did not report.
    """
    keys, satisfied = {task.key for task in new}, set()
    for task in new:
        for need in task.needs:
            key = need_key(need)
            if key in keys or not _holds_back(need):
                continue
            parent = stored[key]
            if parent.state is TaskState.COMPLETED:
                satisfied.add((key, task.key))
            elif parent.state not in OPEN:
                if task.on_dependency_failure is not OnDependencyFailure.RUN:
                    raise Refused(f"{excerpt(task.key)} needs {key}, which ended as {parent.state}")
                satisfied.add((key, task.key))
            elif reporter is not None and task.key in first and parent.creator != task_rows.TASK_CREATOR + reporter.key:
                raise Refused(
                    f"{excerpt(task.key)} is to come before {reporter.key} and needs {key}, which has not ended",
                    hint=f"Such tasks may need completed tasks and those that {reporter.key} reported",
                )
    return satisfied


def _defaults(reporter: TaskRecord, account: str | None) -> Defaults:
    timeouts: dict[str, Any] = {"timeout": reporter.timeout, "stall_timeout": reporter.stall_timeout}
    return Defaults(
        **{name: value for name, value in timeouts.items() if value is not None},
        max_attempts=reporter.max_attempts,
        max_starts=reporter.max_starts,
        workdir=reporter.workdir,
        account=account,
    )


def has_open_needs(task: Planned, satisfied: set[tuple[str, str]]) -> bool:
    """Return whether the new task has dependencies that are not *satisfied*."""
    return any(_holds_back(need) and (need_key(need), task.key) not in satisfied for need in task.needs)


def _project_with_models(tx: Connection, reporter: TaskRecord, works: Mapping[str, Job]) -> Project | None:
    """Return the project, whose restrictions of models apply; None if no task uses a model."""
    if not any(asks_a_model(work.to_json()) for work in works.values()):
        return None
    return project_rows.get(tx, reporter.workspace_id, reporter.project_id)


def _scope(reporter: TaskRecord) -> GraphScope:
    inherited = {name: reporter.options[name] for name in _INHERITED if name in reporter.options}
    if isinstance(checkout := inherited.get(CHECKOUT_OPTION), Mapping):
        inherited[CHECKOUT_OPTION] = without_merge(checkout)
    inherited[_DEPTH] = reporter.options.get(_DEPTH, 0) + 1
    creator = task_rows.TASK_CREATOR + reporter.key
    return GraphScope(
        reporter.workspace_id, reporter.project_id, reporter.run_id, creator, reporter.workdir, inherited=inherited
    )
