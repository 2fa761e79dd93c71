"""What is written into a run's story when a budget fills: once a period at its warning, and once at its end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordination.domain.money.budgets import Budget, BudgetUse, due_to_warn, reached
from coordination.domain.tasks.events import EventType, NewEvent, SubjectKind


def noticed(budget: Budget, use: BudgetUse) -> tuple[BudgetUse, list[EventType]]:
    """The use with what there is to tell of it, once a period: that the warning is passed, that nothing is left."""
    said: list[EventType] = []
    if not use.warned and due_to_warn(budget, use.spent):
        use, said = replace(use, warned=True), [*said, EventType.BUDGET_WARNED]
    if not use.reached and reached(budget, use.spent):
        use, said = replace(use, reached=True), [*said, EventType.BUDGET_REACHED]
    return use, said


def events_of(budget: Budget, use: BudgetUse, types: Sequence[EventType], project_id: str | None) -> list[NewEvent]:
    """Return these events of a budget; *project_id*: of the project whose spending brought them about."""
    payload = {
        "budget": budget.named(),
        "cap": budget.caps(),
        "spent_usd": f"{use.spent.usd:f}",
        "spent_tokens": use.spent.tokens,
        "unpriced_calls": use.spent.unpriced,
        "starts": use.spent.starts,
    }
    project_id, about = budget.project_id or project_id, (SubjectKind.BUDGET, budget.id)
    return [NewEvent(type_, project_id, budget.run_id, payload=payload, subject=about) for type_ in types]
