"""Records what running jobs have spent so far, and finds those that may not spend more."""

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
    """Record the costs of attempts, and return which must be stopped by a budget, by (task id, attempt), and why.

    Moves money from reserved to spent, and reserves the expected cost of another call. Costs of attempts that have lost
    their task are recorded too, marked as stale.
    """
    spent_by = {(one.task_id or "", one.attempt or 0) for one in records}
    live = attempts.unfinished(tx, workspace_id, sorted(spent_by))
    marked = [replace(one, stale=(one.task_id or "", one.attempt or 0) not in live) for one in records]
    return ledger.settle(tx, workspace_id, marked).stops
