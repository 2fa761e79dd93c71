"""A run grows: tasks that its own work found to be needed become tasks of the run."""

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
from coordination.domain.jobs.checkouts import without_merge
from coordination.domain.money.estimates import asks_a_model
from coordination.domain.plans import graph
from coordination.domain.plans.plan_expansion import SUPERVISION, VARIANT, VARIANTS, expanded, supervision_of
from coordination.domain.plans.plans import Defaults, Dependency, Plan
from coordination.domain.plans.plans import Task as Planned
from coordination.domain.tasks.attempts import Discovered
from coordination.domain.tasks.tasks import OPEN, BlockReason, OnDependencyFailure, TaskRecord, TaskState
from coordination.formats.plan import read_tasks
from coordination.services.plans.lending import LentAuthority
from coordination.services.plans.store_graph import prepare_graph, store_graph
from coordination.services.plans.task_rows import AgentChooser, GraphScope
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.tasks import dependencies as edge_rows
from coordination.store.queries.tasks import events, ready, runs
from coordination.store.queries.tasks import tasks as task_rows

MOST_AT_ONCE = 100
MOST_IN_A_RUN = 1_000
DEEPEST = 5
"""Bounds: so many tasks from one attempt, so many found tasks in a run, and found by a found one so many times over."""

_INHERITED = ("workspace", "gates", "limits")
_DEPTH = "depth"


@dataclass(frozen=True, slots=True)
class AddedTasks:
    """What was found. ``ids``: of every task that was named, also of those that were there already; by its own key.

    ``ready``: how many tasks may be claimed now that could not before. ``holds``: the finder waits for some.
    """

    ids: Mapping[str, str] = field(default_factory=dict)
    ready: int = 0
    holds: bool = False


def grow(
    tx: Connection, workspace_id: str, finder_id: str, discovered: Sequence[Discovered], desk: AgentChooser
) -> AddedTasks:
    """Add these tasks to the run of the one that found them. Refused, or PlanError, with nothing stored.

    Finding one again (an attempt that is repeated) adds nothing. A finder that is blocked waits for those that come
    first; one that still runs is not held.
    """
    finder = task_rows.get(tx, workspace_id, finder_id)
    if finder is None:
        raise NotFound(f"There is no task {finder_id}")
    if not discovered:
        return AddedTasks()
    planned = read_tasks([found.task for found in discovered], source=f"found by {finder.key}")
    planned = tuple(
        replace(task, role=found.role, supervised=False)
        if found.role
        else task
        if found.by_system or found.delegated
        else replace(task, agent=task.agent or finder.agent)
        for task, found in zip(planned, discovered, strict=True)
    )
    _check_bounds(tx, finder, planned)
    loan = LentAuthority(tx, finder, discovered)
    loan.check_words(planned)
    there = task_rows.keyed(tx, workspace_id, finder.run_id, _named(planned))
    planned, again = _apart(planned, there, finder)
    loan.name(planned)
    first = loan.first
    new = [task for task in planned if task.key not in again]
    about_run = runs.metadata_of(tx, finder.workspace_id, finder.run_id) if new else {}
    plan = Plan(new, defaults=_defaults(finder, about_run.get(DEFAULT_ACCOUNT)))
    works: Mapping[str, Job] = graph.check(plan, known=there) if new else {}
    check_needs(new, there, finder, first)
    if new and (parted := _in_parts(tx, finder, plan, about_run.get(SUPERVISION))) is not plan:
        plan, works = parted, graph.check(parted, known=there)
    satisfied = check_needs(plan.tasks, there, finder, set())
    ids = {key: task.id for key, task in there.items()} | {task.key: new_id() for task in plan.tasks}
    if new:
        graph_ = prepare_graph(plan, works, desk, _restrictions(tx, finder, works))
        store_graph(tx, _scope(finder), graph_, ids, satisfied=satisfied, loan=loan)
    waits_for = [key for key in first if key not in again or there[key].state in OPEN]
    queued = sum(not waits(task, satisfied) for task in plan.tasks)
    held = False
    if finder.state is TaskState.BLOCKED and finder.reasons & BlockReason.DEPENDENCIES and first:
        held = bool(waits_for)
        completed = [ids[key] for key in first if key not in waits_for]
        more = edge_rows.hold(tx, workspace_id, finder.id, [ids[key] for key in waits_for], completed)
        if held:
            task_rows.hold_for(tx, workspace_id, finder.id, more)
        elif not finder.pending:
            lifted = ready.lift_from(tx, workspace_id, [finder.id], BlockReason.DEPENDENCIES)
            queued += events.append_unblocked(tx, workspace_id, finder.project_id, lifted, actor=f"task:{finder.key}")
    named = {str(found.task["key"]): ids[task.key] for found, task in zip(discovered, planned, strict=True)}
    return AddedTasks(named, queued, held)


def _check_bounds(tx: Connection, finder: TaskRecord, planned: Sequence[Planned]) -> None:
    if len(planned) > MOST_AT_ONCE:
        raise Refused(f"{len(planned):,} tasks were found at once; at most {MOST_AT_ONCE} are possible")
    if finder.options.get(_DEPTH, 0) >= DEEPEST:
        raise Refused(
            f"{finder.key} was itself found by a task that was found, {DEEPEST} times over",
            hint="Put the work into the plan, or let a person look at it",
        )
    _check_room(tx, finder, len(planned))


def _check_room(tx: Connection, finder: TaskRecord, more: int) -> None:
    before = task_rows.found_in(tx, finder.workspace_id, finder.run_id)
    if before + more > MOST_IN_A_RUN:
        raise Refused(f"The work of this run has found {before:,} tasks; at most {MOST_IN_A_RUN:,} are possible")


def _in_parts(tx: Connection, finder: TaskRecord, plan: Plan, who: Mapping[str, Any] | None) -> Plan:
    """*plan*, what was found, with what its variants and *who*, the run's supervision, make of it.

    What may find nothing any more, being found so many times over, is not supervised: it could not be sent back.
    """
    if who and finder.options.get(_DEPTH, 0) + 1 < DEEPEST:
        parted = expanded(replace(plan, supervision=supervision_of(who)))
    else:
        parted = expanded(plan)
    parts = sorted({task.key for task in parted.tasks} - {task.key for task in plan.tasks})
    if parts:
        _check_room(tx, finder, len(parted.tasks))
        if taken := task_rows.keyed(tx, finder.workspace_id, finder.run_id, parts):
            raise Refused(f"The run has a task {excerpt(min(taken))} already", hint="Give what you found another key")
    if any(VARIANT in task.role for task in parted.tasks):
        runs.note(tx, finder.workspace_id, finder.run_id, {VARIANTS: True})
    return parted


def _named(planned: Sequence[Planned]) -> list[str]:
    keys = {key for task in planned for key in (task.key, *(key_of(need) for need in task.needs))}
    return sorted(keys | {task.parent for task in planned if task.parent is not None})


def key_of(need: str | Dependency) -> str:
    """The key of what is needed."""
    return need if isinstance(need, str) else need.key


def _holds_back(need: str | Dependency) -> bool:
    return isinstance(need, str) or need.kind.holds_back


def _apart(
    planned: Sequence[Planned], there: Mapping[str, TaskRecord], finder: TaskRecord
) -> tuple[tuple[Planned, ...], frozenset[str]]:
    """Whose key is taken: the same one found again (their keys), or another task, which is refused.

    What was found before and came to a bad end is found anew, under a key of its own.
    """
    again: set[str] = set()
    anew: dict[str, str] = {}
    for task in planned:
        before = there.get(task.key)
        if before is None:
            continue
        if before.creator != task_rows.FOUND_BY + finder.key:
            raise Refused(f"The run has a task {excerpt(task.key)} already", hint="Give what you found another key")
        if before.state in {TaskState.FAILED, TaskState.CANCELED}:
            anew[task.key] = f"{task.key}.{finder.attempt}"
        else:
            again.add(task.key)
    return tuple(_renamed(task, anew) for task in planned) if anew else tuple(planned), frozenset(again)


def _renamed(task: Planned, anew: Mapping[str, str]) -> Planned:
    needs = [
        anew.get(need, need) if isinstance(need, str) else replace(need, key=anew.get(need.key, need.key))
        for need in task.needs
    ]
    return replace(task, key=anew.get(task.key, task.key), needs=needs)


def check_needs(
    new: Sequence[Planned], there: Mapping[str, TaskRecord], finder: TaskRecord | None, first: set[str]
) -> set[tuple[str, str]]:
    """The edges from tasks of the run to new ones that hold nothing back any more, as (parent, child) keys."""
    keys, satisfied = {task.key for task in new}, set()
    for task in new:
        for need in task.needs:
            key = key_of(need)
            if key in keys or not _holds_back(need):
                continue
            parent = there[key]
            if parent.state is TaskState.COMPLETED:
                satisfied.add((key, task.key))
            elif parent.state not in OPEN:
                if task.on_dependency_failure is not OnDependencyFailure.RUN:
                    raise Refused(f"{excerpt(task.key)} needs {key}, which ended as {parent.state}")
                satisfied.add((key, task.key))
            elif finder is not None and task.key in first and parent.creator != task_rows.FOUND_BY + finder.key:
                raise Refused(
                    f"{excerpt(task.key)} is to come before {finder.key} and needs {key}, which has not ended",
                    hint=f"What comes first may need what has completed, and what {finder.key} found itself",
                )
    return satisfied


def _defaults(finder: TaskRecord, account: str | None) -> Defaults:
    written: dict[str, Any] = {"timeout": finder.timeout, "stall_timeout": finder.stall_timeout}
    given = {name: value for name, value in written.items() if value is not None}
    return Defaults(
        **given,
        max_attempts=finder.max_attempts,
        max_starts=finder.max_starts,
        workdir=finder.workdir,
        account=account,
    )


def waits(task: Planned, satisfied: set[tuple[str, str]]) -> bool:
    """Whether the new task waits for something that is not *satisfied*."""
    return any(_holds_back(need) and (key_of(need), task.key) not in satisfied for need in task.needs)


def _restrictions(tx: Connection, finder: TaskRecord, works: Mapping[str, Job]) -> Mapping[str, Any]:
    """Return which models the project allows; nothing where no task asks any."""
    if not any(asks_a_model(work.to_json()) for work in works.values()):
        return {}
    project = project_rows.get(tx, finder.workspace_id, finder.project_id)
    return project.model_restrictions if project is not None else {}


def _scope(finder: TaskRecord) -> GraphScope:
    inherited = {name: finder.options[name] for name in _INHERITED if name in finder.options}
    if isinstance(workspace := inherited.get("workspace"), Mapping):
        inherited["workspace"] = without_merge(workspace)
    inherited[_DEPTH] = finder.options.get(_DEPTH, 0) + 1
    creator = task_rows.FOUND_BY + finder.key
    return GraphScope(
        finder.workspace_id, finder.project_id, finder.run_id, creator, finder.workdir, inherited=inherited
    )
