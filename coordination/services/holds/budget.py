"""Budgets: a task starts when its estimated cost fits into every budget that applies to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping

from coordination.domain.money.budgets import BudgetPeriod
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import ClaimRequest, ExplainedTask, HaltedRun, Hold, HoldDecision, HoldReason
from coordination.services.money import budgets
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import idle_supervisors
from coordination.store.queries.money import budgets as budget_rows
from coordination.store.queries.predicates import BUDGETED
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.claims import Candidate

_RUNS_AT_ONCE = 50
_TASKS_AT_ONCE = 500
_MOST_BUDGETS = 3


class BudgetHold(Hold):
    """Reserves the estimated costs of tasks, and holds the tasks for which too little money is left."""

    name = "budget"
    reason = BlockReason.BUDGET
    condition = BUDGETED
    tick_condition = idle_supervisors.has_blocked(BlockReason.BUDGET)

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> HoldDecision:
        """Reserve money, best task first; a budget may select a cheaper model for a job."""
        tasks = [row.row() for row in rows]
        reservations = budgets.reserve(request.tx, request.workspace_id, tasks, request.estimator, wait=request.wait)
        changes: dict[str, dict[str, Any]] = {task_id: {"budgeted": True} for task_id in reservations.reserved}
        events: dict[str, tuple[EventType, dict[str, Any]]] = {}
        for row in rows:
            if (model := reservations.models.get(row.id)) is not None:
                changes.setdefault(row.id, {})["work"] = budgets.with_model(row.work, model)
                events[row.id] = EventType.DOWNGRADED, {"from": budgets.named_model(row.work), "to": model}
        refused = reservations.refused.items()
        return HoldDecision(
            {task_id: HoldReason(lack.sentence(), subject=lack.budget.id) for task_id, lack in refused},
            skipped=reservations.skipped,
            uses={task_id: {"reserved": reserved.to_json()} for task_id, reserved in reservations.reserved.items()},
            changes=changes,
            events=events,
        )

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Lift tasks that can be paid again, run by run, so that no run waits behind the cap of another."""
        lifted: list[RowMapping] = []
        for run_id in budget_rows.list_waiting_runs(tx, workspace_id, project_id, most=_RUNS_AT_ONCE):
            rows = budget_rows.list_waiting_tasks(tx, workspace_id, project_id, run_id, most=_TASKS_AT_ONCE)
            if fitting := sorted(budgets.find_affordable(tx, workspace_id, rows, estimator)):
                lifted += ready.lift_from(tx, workspace_id, fitting, self.reason)
        return lifted

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield the budget that holds the task, and the missing amount."""
        if self.reason not in target.reasons:
            return
        if target.task is None:
            yield TaskBlocker(self.name, "a budget that applies to it is used up", via=target.via)
            return
        about = target.about
        rows = budget_rows.find_waiting_tasks(about.tx, about.workspace_id, [target.id])
        lack = budgets.find_shortages(about.tx, about.workspace_id, rows, target.estimator).get(target.id)
        enough = "waits for a budget, which has enough money now: it continues automatically"
        yield TaskBlocker(self.name, enough if lack is None else f"{lack.sentence()}. {lack.hint()}")

    def find_run_obstacles(self, run: HaltedRun) -> list[Obstacle] | None:
        """Return the budgets that hold tasks of the run; None when one of the tasks can be paid."""
        number = run.count(self.reason)
        if not number:
            return []
        lacks = budgets.find_waiting_shortages(run.tx, run.workspace_id, run.estimator, run_id=run.run_id)
        if len(lacks) < number:
            return None
        keys = run.keys(self.reason)
        by_budget = {lack.budget.id: lack for lack in lacks.values()}
        obstacles = []
        for lack in list(by_budget.values())[:_MOST_BUDGETS]:
            lasts = not lack.passing and lack.budget.period is BudgetPeriod.TOTAL
            words = f"{lack.sentence()}. {lack.hint()}"
            obstacles.append(Obstacle(self.name, number, keys, words, lasts=lasts, missing="a budget"))
        return obstacles


HOLD = BudgetHold()
