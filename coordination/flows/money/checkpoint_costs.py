"""Write down what running jobs have spent so far, and find those that may not spend more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from coordination.domain.money.budgets import BudgetShortage
from coordination.domain.money.costs import CostRecord
from coordination.services.money import ledger
from coordination.store.queries.tasks import attempts


def checkpoint_costs(
    tx: Connection, workspace_id: str, records: Sequence[CostRecord]
) -> dict[tuple[str, int], BudgetShortage]:
    """Record what attempts spent; by (task id, attempt) those that must be stopped for want of money, and why.

    Money moves from what they have reserved to what is spent; what another call may cost is reserved on top. What an
    attempt spent that has lost its task is recorded too, and marked.
    """
    spent_by = {(one.task_id or "", one.attempt or 0) for one in records}
    live = attempts.unfinished(tx, workspace_id, sorted(spent_by))
    marked = [replace(one, stale=(one.task_id or "", one.attempt or 0) not in live) for one in records]
    return ledger.settle(tx, workspace_id, marked).stops
