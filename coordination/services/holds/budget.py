"""Budgets: a task starts when what it is expected to cost fits into every budget that applies to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping

from coordination.domain.money.budgets import BudgetPeriod
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import ClaimRequest, Decision, Held, HeldRun, HeldTask, Hold
from coordination.services.money import budgets
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import idle_supervisors
from coordination.store.queries.money import budget_usage
from coordination.store.queries.predicates import BUDGETED
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.claims import Candidate

_RUNS_AT_ONCE = 50
_TASKS_AT_ONCE = 500
_MOST_BUDGETS = 3


class Budget(Hold):
    """Reserves what tasks are expected to cost, and holds those for which too little is left."""

    name = "budget"
    reason = BlockReason.BUDGET
    condition = BUDGETED
    uses_up = True
    duty = idle_supervisors.has_blocked(BlockReason.BUDGET)

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> Decision:
        """Reserve the money, best task first; a cheaper model may be chosen for a job."""
        tasks = [row.row() for row in rows]
        money_of = budgets.reserve(request.tx, request.workspace_id, tasks, request.estimator, wait=request.wait)
        changes: dict[str, dict[str, Any]] = {task_id: {"budgeted": True} for task_id in money_of.reserved}
        downgraded = [row for row in rows if row.id in money_of.models]
        for row in downgraded:
            changes.setdefault(row.id, {})["work"] = budgets.with_model(row.work, money_of.models[row.id])
        return Decision(
            {task_id: Held(lack.sentence(), subject=lack.budget.id) for task_id, lack in money_of.refused.items()},
            skipped=money_of.left,
            uses={task_id: {"reserved": reserved.to_json()} for task_id, reserved in money_of.reserved.items()},
            changes=changes,
            events={
                row.id: (EventType.DOWNGRADED, {"from": budgets.model_of(row.work), "to": money_of.models[row.id]})
                for row in downgraded
            },
        )

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Let tasks go on for which there is money again: run by run, so that none waits behind another's cap."""
        lifted: list[RowMapping] = []
        for run_id in budget_usage.runs_waiting(tx, workspace_id, project_id, most=_RUNS_AT_ONCE):
            rows = budget_usage.waiting(tx, workspace_id, project_id, run_id, most=_TASKS_AT_ONCE)
            if fitting := sorted(budgets.affordable(tx, workspace_id, rows, estimator)):
                lifted += ready.lift_from(tx, workspace_id, fitting, self.reason)
        return lifted

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say which budget holds the task, and how much it lacks."""
        if self.reason not in held.reasons:
            return
        if held.task is None:
            yield TaskBlocker(self.name, "nothing is left in a budget that applies to it", via=held.via)
            return
        about = held.about
        rows = budget_usage.asking(about.tx, about.workspace_id, [held.id])
        lack = budgets.shortages(about.tx, about.workspace_id, rows, held.estimator).get(held.id)
        enough = "waits for a budget, in which there is enough now: it goes on by itself"
        yield TaskBlocker(self.name, enough if lack is None else f"{lack.sentence()}. {lack.hint()}")

    def of_run(self, run: HeldRun) -> list[Obstacle] | None:
        """Say which budgets hold tasks of the run; None when there is money for one of them."""
        number = run.count(self.reason)
        if not number:
            return []
        lacks = budgets.lacking(run.tx, run.workspace_id, run.estimator, run_id=run.run_id)
        if len(lacks) < number:
            return None
        keys = run.keys(self.reason)
        by_budget = {lack.budget.id: lack for lack in lacks.values()}
        return [
            Obstacle(
                self.name,
                number,
                keys,
                f"{lack.sentence()}. {lack.hint()}",
                lasts=not lack.passing and lack.budget.period is BudgetPeriod.TOTAL,
                missing="a budget",
            )
            for lack in list(by_budget.values())[:_MOST_BUDGETS]
        ]


HOLD = Budget()
