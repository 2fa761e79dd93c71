"""Counts the starts of agents and chats from attempts, for budgets of starts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, or_, select

from coordination.domain.jobs import PAID_KINDS
from coordination.domain.money.budgets import BudgetScope
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks

PAID = or_(*(t.kind.startswith(f"{kind}:") for kind in PAID_KINDS))
"""Matches tasks whose job asks a model."""


def count_starts(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str, *, since: datetime | None) -> int:
    """Count the attempts with paid jobs, claimed *since* a moment, to which a budget of that scope and subject applies.

    Includes running ones, but not those that ended before their job was started, or that retention has deleted.
    """
    special = {BudgetScope.AGENT: a.agent_id, BudgetScope.SESSION: runs.c.session_id, BudgetScope.TASK: t.id}
    column = special[scope] if scope in special else t[f"{scope}_id"]
    statement = (
        select(func.count())
        .select_from(tasks)
        .join(attempts, a.task_id == t.id)
        .join(runs, runs.c.id == t.run_id)
        .where(t.workspace_id == workspace_id, column == subject, PAID, a.began.is_not(False))
    )
    if since is not None:
        statement = statement.where(a.started_at >= since)
    return int(tx.execute(statement).scalar_one())
