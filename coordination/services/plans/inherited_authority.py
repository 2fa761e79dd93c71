"""The authority of reported tasks, which cannot exceed that of their reporter (``domain.access.authority``)."""

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
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION, MERGE_KEY, merge_key, without_merge
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
from coordination.store.queries.tasks import dependencies as dependency_rows

_CAPS = ("usd", "tokens", "unpriced_calls", "max_starts")


class InheritedAuthority:
    """The rights of an attempt, the *reporter*, that the tasks which it reports inherit."""

    def __init__(self, tx: Connection, reporter: TaskRecord, discovered: Sequence[DiscoveredTask]) -> None:
        self._reporter = reporter
        work = next((report.work for report in discovered if report.work is not None), reporter.work)
        self._rights = _rights(reporter, work)
        self._discovered = discovered
        self._reports: dict[str, DiscoveredTask] = {}
        self.blocks_finder: set[str] = set()
        """The keys of tasks that must run before the reporter continues."""
        delegates = any(report.delegated for report in discovered)
        self._project = projects.get(tx, reporter.workspace_id, reporter.project_id) if delegates else None
        self._budgets = budgets.of_subject(tx, reporter.workspace_id, BudgetScope.TASK, reporter.id)

    def check_fields(self, planned: Sequence[Planned]) -> None:
        """Raise PlanError for fields of reported tasks that only a plan or the system may set."""
        for task, report in zip(planned, self._discovered, strict=True):
            if report.by_system:
                continue
            if (task.concurrency_key or "").startswith(MERGE_KEY):
                raise _problem(task.key, Refused("Only the merge queue uses this key", field="concurrency_key"))
            if not task.supervised and WORK in self._reporter.options.get("role", {}):
                why = "Tasks that a reviewed job reports are reviewed as well"
                raise _problem(task.key, Refused(why, hint="Leave supervised out", field="supervised"))

    def set_keys(self, planned: Sequence[Planned]) -> None:
        """Set the keys with which the reported tasks are stored, in their order."""
        self._reports = {task.key: report for task, report in zip(planned, self._discovered, strict=True)}
        self.blocks_finder = {key for key, report in self._reports.items() if report.blocks_finder}

    def _is_reported(self, task: Planned) -> bool:
        """Return whether a job, not the system, decided what the task does."""
        if task.role and not task.role.keys() & {WORK, VARIANT}:
            return False
        report = self._report_of(task)
        return report is None or not report.by_system

    def is_delegated(self, task: Planned) -> bool:
        """Return whether a job delegates the task to another agent."""
        report = self._report_of(task)
        return report is not None and report.delegated and self._is_reported(task)

    def _report_of(self, task: Planned) -> DiscoveredTask | None:
        """Return the report of the task, or of the task of which it is a part, whose key is a prefix of its key."""
        above = [key for key in self._reports if task.key == key or task.key.startswith(f"{key}/")]
        return self._reports[max(above, key=len)] if above else None

    def adjust(self, plan: Plan, new_rows: Sequence[dict[str, Any]]) -> None:
        """Set parent, priority and authority in the rows of new tasks. Raises PlanError where they exceed rights."""
        reporter = self._reporter
        for task, row in zip(plan.tasks, new_rows, strict=True):
            if task.key in self.blocks_finder and row["parent_id"] is None:
                row["parent_id"] = reporter.id
            if task.concurrency_key == merge_key(reporter.run_id):
                # Conflict tasks run early, because other merges make a conflict worse.
                row["priority"] = min(reporter.priority + 1, MAX_PRIORITY)
            elif not row["priority"]:  # the default
                row["priority"] = min(reporter.priority, 0)
        self._check(plan, new_rows)

    def edges(self, plan: Plan, ids: Mapping[str, str], stored: Collection[tuple[str, str]]) -> list[dict[str, Any]]:
        """Return the edges ``discovered_from`` from the new tasks to the reporter, unless *stored* already."""
        reporter = self._reporter
        child_ids = [ids[task.key] for task in plan.tasks if (reporter.id, ids[task.key]) not in stored]
        kind = DependencyKind.DISCOVERED_FROM
        return [dependency_rows.row_of(reporter.workspace_id, reporter.id, child_id, kind) for child_id in child_ids]

    def origin(self, task: Planned) -> dict[str, Any]:
        """Return the payload of the task's event: its reporter, and whether it was delegated."""
        delegated = {"delegated": True} if self.is_delegated(task) else {}
        return {"found_by": self._reporter.key} | delegated

    def _check(self, plan: Plan, new_rows: Sequence[dict[str, Any]]) -> None:
        """Raise PlanError for rows that exceed the rights; store the rights in the rows for a check at claim."""
        for_system = replace(self._rights, work=None, agent=None, max_attempts=None, priority=None)
        for task, row in zip(plan.tasks, new_rows, strict=True):
            rights, requested = self._rights if self._is_reported(task) else for_system, _requested_rights(row)
            try:
                if delegated := self.is_delegated(task):
                    project = self._project
                    trusted = () if project is None else project.settings.get(DELEGATES) or ()
                    check_delegation(
                        rights, requested, project="" if project is None else project.name, trusted=trusted
                    )
                    rights = replace(rights, work=row["work"], agent=row["agent"])
                else:
                    check_within(rights, requested)
            except Refused as refused:
                raise _problem(task.key, refused) from None
            row["authority"] = rights.to_json()
            if delegated:
                row["options"] = {**row["options"], DELEGATED_BY: self._chain()}

    def _chain(self) -> list[dict[str, Any]]:
        who = {"task": self._reporter.key, "agent": self._reporter.agent}
        return [*self._reporter.options.get(DELEGATED_BY, ()), {name: value for name, value in who.items() if value}]

    def budgets(self, plan: Plan, ids: Mapping[str, str], stated: Sequence[Budget]) -> list[Budget]:
        """Return the budgets of the new tasks: those *stated* in the plan, and copies of the reporter's for the rest.

        Raises PlanError for a budget that exceeds the reporter's.
        """
        if not self._budgets:
            return list(stated)
        by_subject = {(budget.subject, budget.period): budget for budget in stated}
        budgets = list(stated)
        for task in plan.tasks:
            for cap in self._budgets:
                own = by_subject.get((ids[task.key], cap.period))
                if own is None:
                    budgets.append(replace(cap, id=new_id(), subject=ids[task.key]))
                else:
                    budgets[budgets.index(own)] = self._bound(task.key, own, cap)
        return budgets

    def _bound(self, key: str, budget: Budget, cap: Budget) -> Budget:
        values: dict[str, Any] = {}
        for name in _CAPS:
            most, amount = getattr(cap, name), getattr(budget, name)
            if most is not None and amount is not None and amount > most:
                why = f"Its budget is larger than that of {self._reporter.key} ({cap.describe_caps()})"
                raise _problem(key, Refused(why, hint="Leave budget out to have the same", field="budget"))
            values[name] = most if amount is None else amount
        if cap.action is not ExceededAction.WARN and budget.action is ExceededAction.WARN:
            values["action"] = cap.action
        return replace(budget, **values)


def _rights(reporter: TaskRecord, work: Mapping[str, Any]) -> Rights:
    inherited = rights_of(reporter.authority)
    own_folders = () if reporter.workdir is None else (reporter.workdir,)
    folders = [*(() if inherited is None else inherited.folders), *own_folders]
    checkout = reporter.options.get(CHECKOUT_OPTION)
    return Rights(
        work,
        tuple(dict.fromkeys(folders)),
        without_merge(checkout) if isinstance(checkout, Mapping) else {},
        reporter.timeout,
        reporter.stall_timeout,
        limits_of(reporter.options),
        reporter.agent,
        reporter.max_starts,
        reporter.max_attempts,
        reporter.priority,
    )


def _requested_rights(row: Mapping[str, Any]) -> Rights:
    paid = any(kind in row["work"] for kind in PAID_KINDS)
    return Rights(
        row["work"],
        () if row["workdir"] is None else (row["workdir"],),
        row["options"].get(CHECKOUT_OPTION, {}),
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
