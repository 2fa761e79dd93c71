"""What the tasks that an attempt reports may do: at most what that attempt may (``domain.authority``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import PlanError, Refused, inside
from coordination.base.ids import new_id
from coordination.base.wording import excerpt
from coordination.domain.access.authority import (
    DELEGATED_BY,
    DELEGATES,
    Rights,
    check_delegation,
    check_within,
    rights_of,
)
from coordination.domain.jobs import PAID_KINDS
from coordination.domain.jobs.checkouts import MERGE_KEY, merge_key, without_merge
from coordination.domain.jobs.resource_limits import limits_of
from coordination.domain.money.budgets import Budget, BudgetScope, ExceededAction
from coordination.domain.plans.graph import MAX_PRIORITY
from coordination.domain.plans.plan_expansion import VARIANT, WORK
from coordination.domain.plans.plans import Plan
from coordination.domain.plans.plans import Task as Planned
from coordination.domain.tasks.attempts import DiscoveredTask
from coordination.domain.tasks.tasks import DependencyKind, TaskRecord
from coordination.store.queries.money import budgets
from coordination.store.queries.projects import projects

_CAPS = ("usd", "tokens", "unpriced_calls", "max_starts")


class InheritedAuthority:
    """The rights of one attempt, the *finder*, lent to the tasks that it reports."""

    def __init__(self, tx: Connection, finder: TaskRecord, discovered: Sequence[DiscoveredTask]) -> None:
        self._finder = finder
        self._held = _rights(finder, next((found.work for found in discovered if found.work is not None), finder.work))
        self._discovered = discovered
        self._named: dict[str, DiscoveredTask] = {}
        self.first: set[str] = set()
        """The keys of tasks that come before the finder goes on."""
        delegates = any(found.delegated for found in discovered)
        self._project = projects.get(tx, finder.workspace_id, finder.project_id) if delegates else None
        self._budgets = budgets.of_subject(tx, finder.workspace_id, BudgetScope.TASK, finder.id)

    def check_words(self, planned: Sequence[Planned]) -> None:
        """Refuse what only a plan or the system may say of the tasks that were discovered, in their order."""
        for task, found in zip(planned, self._discovered, strict=True):
            if found.by_system:
                continue
            if (task.concurrency_key or "").startswith(MERGE_KEY):
                raise _problem(task.key, Refused("Only the merge queue uses this key", field="concurrency_key"))
            if not task.supervised and WORK in self._finder.options.get("role", {}):
                why = "The job that reports it is supervised, and so is what it reports"
                raise _problem(task.key, Refused(why, hint="Leave supervised out", field="supervised"))

    def name(self, planned: Sequence[Planned]) -> None:
        """Take the keys under which the tasks that were discovered are stored, in their order."""
        self._named = {task.key: found for task, found in zip(planned, self._discovered, strict=True)}
        self.first = {key for key, found in self._named.items() if found.blocks_finder}

    def _is_reported(self, task: Planned) -> bool:
        """Whether a job said what the task does."""
        if task.role and not task.role.keys() & {WORK, VARIANT}:
            return False
        found = self._found(task)
        return found is None or not found.by_system

    def is_delegated(self, task: Planned) -> bool:
        """Whether a job gives what the task does to another agent."""
        found = self._found(task)
        return found is not None and found.delegated and self._is_reported(task)

    def _found(self, task: Planned) -> DiscoveredTask | None:
        """What was discovered of which the task is, or is a part. Parts have keys below that of their task."""
        above = [key for key in self._named if task.key == key or task.key.startswith(f"{key}/")]
        return self._named[max(above, key=len)] if above else None

    def adjust(self, plan: Plan, new_rows: Sequence[dict[str, Any]]) -> None:
        """Put new tasks below the finder, and give them its priority; raise PlanError for what it must not do."""
        finder = self._finder
        for task, row in zip(plan.tasks, new_rows, strict=True):
            if task.key in self.first and row["parent_id"] is None:
                row["parent_id"] = finder.id
            if task.concurrency_key == merge_key(finder.run_id):
                # The longer a conflict waits, the more others have merged.
                row["priority"] = min(finder.priority + 1, MAX_PRIORITY)
            elif not row["priority"]:  # as of one that says none
                row["priority"] = min(finder.priority, 0)
        self._check(plan, new_rows)

    def edges(self, plan: Plan, ids: Mapping[str, str], stored: Collection[tuple[str, str]]) -> list[dict[str, Any]]:
        """Return the edges that say what the tasks were discovered from, where none is *stored*."""
        return [
            {
                "parent_id": self._finder.id,
                "child_id": ids[task.key],
                "workspace_id": self._finder.workspace_id,
                "kind": DependencyKind.DISCOVERED_FROM,
                "satisfied_at": None,
            }
            for task in plan.tasks
            if (self._finder.id, ids[task.key]) not in stored
        ]

    def origin(self, task: Planned) -> dict[str, Any]:
        """Return who found the task."""
        delegated = {"delegated": True} if self.is_delegated(task) else {}
        return {"found_by": self._finder.key} | delegated

    def _check(self, plan: Plan, found: Sequence[dict[str, Any]]) -> None:
        """Refuse rows of new tasks that go beyond what is lent; the others note it, for the claim to check again."""
        chosen = replace(self._held, work=None, agent=None, max_attempts=None, priority=None)
        for task, row in zip(plan.tasks, found, strict=True):
            held, asked = self._held if self._is_reported(task) else chosen, _asked(row)
            try:
                if delegated := self.is_delegated(task):
                    project = self._project
                    trusted = () if project is None else project.settings.get(DELEGATES) or ()
                    check_delegation(held, asked, project="" if project is None else project.name, trusted=trusted)
                    held = replace(held, work=row["work"], agent=row["agent"])
                else:
                    check_within(held, asked)
            except Refused as refused:
                raise _problem(task.key, refused) from None
            row["authority"] = held.to_json()
            if delegated:
                row["options"] = {**row["options"], DELEGATED_BY: self._chain()}

    def _chain(self) -> list[dict[str, Any]]:
        who = {"task": self._finder.key, "agent": self._finder.agent}
        return [*self._finder.options.get(DELEGATED_BY, ()), {name: value for name, value in who.items() if value}]

    def budgets(self, plan: Plan, ids: Mapping[str, str], stated: Sequence[Budget]) -> list[Budget]:
        """The budgets of the new tasks: those *stated*, which must not exceed the finder's, and its caps for the rest.

        Raises PlanError for one that is larger.
        """
        if not self._budgets:
            return list(stated)
        own = {(one.subject, one.period): one for one in stated}
        made = list(stated)
        for task in plan.tasks:
            for cap in self._budgets:
                mine = own.get((ids[task.key], cap.period))
                if mine is None:
                    made.append(replace(cap, id=new_id(), subject=ids[task.key]))
                    continue
                made[made.index(mine)] = self._within(task.key, mine, cap)
        return made

    def _within(self, key: str, mine: Budget, cap: Budget) -> Budget:
        values: dict[str, Any] = {}
        for name in _CAPS:
            most, wanted = getattr(cap, name), getattr(mine, name)
            if most is not None and wanted is not None and wanted > most:
                why = f"Its budget is larger than that of {self._finder.key} ({cap.describe_caps()})"
                raise _problem(key, Refused(why, hint="Leave budget out to have the same", field="budget"))
            values[name] = most if wanted is None else wanted
        if cap.action is not ExceededAction.WARN and mine.action is ExceededAction.WARN:
            values["action"] = cap.action
        return replace(mine, **values)


def _rights(finder: TaskRecord, work: Mapping[str, Any]) -> Rights:
    before = rights_of(finder.authority)
    folders = [*(() if before is None else before.folders), *(() if finder.workdir is None else (finder.workdir,))]
    workspace = finder.options.get("workspace")
    return Rights(
        work,
        tuple(dict.fromkeys(folders)),
        without_merge(workspace) if isinstance(workspace, Mapping) else {},
        finder.timeout,
        finder.stall_timeout,
        limits_of(finder.options),
        finder.agent,
        finder.max_starts,
        finder.max_attempts,
        finder.priority,
    )


def _asked(row: Mapping[str, Any]) -> Rights:
    paid = any(kind in row["work"] for kind in PAID_KINDS)
    return Rights(
        row["work"],
        () if row["workdir"] is None else (row["workdir"],),
        row["options"].get("workspace", {}),
        row["timeout"],
        row["stall_timeout"],
        limits_of(row["options"]),
        row["agent"],
        row["max_starts"] if paid else None,
        row["max_attempts"],
        row["priority"],
    )


def _problem(key: str, refused: Refused) -> PlanError:
    field = inside(f"tasks.{key}", refused.field)
    return PlanError(f"Task {excerpt(key)}: {refused.message}", hint=refused.hint, field=field)
