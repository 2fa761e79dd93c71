"""Events of a run when a budget passes its warning or its cap: each at most once a period."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordination.domain.money.budgets import Budget, BudgetUse, is_reached, is_warning_due
from coordination.domain.tasks.events import EventType, NewEvent, SubjectKind


def mark_thresholds(budget: Budget, use: BudgetUse) -> tuple[BudgetUse, list[EventType]]:
    """Mark in *use* that the warning or the cap is reached. Return it with the event types that are new this period."""
    types: list[EventType] = []
    if not use.warned and is_warning_due(budget, use.spent):
        use, types = replace(use, warned=True), [*types, EventType.BUDGET_WARNED]
    if not use.reached and is_reached(budget, use.spent):
        use, types = replace(use, reached=True), [*types, EventType.BUDGET_REACHED]
    return use, types


def budget_events(budget: Budget, use: BudgetUse, types: Sequence[EventType], project_id: str | None) -> list[NewEvent]:
    """Return an event of each type; *project_id*: the project whose spending caused them."""
    payload = {
        "budget": budget.title(),
        "cap": budget.describe_caps(),
        "spent_usd": f"{use.spent.usd:f}",
        "spent_tokens": use.spent.tokens,
        "unpriced_calls": use.spent.unpriced,
        "starts": use.spent.starts,
    }
    project_id, subject = budget.project_id or project_id, (SubjectKind.BUDGET, budget.id)
    return [NewEvent(type_, project_id, budget.run_id, payload=payload, subject=subject) for type_ in types]
