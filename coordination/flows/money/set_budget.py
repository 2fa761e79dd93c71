"""Set, change and remove budgets. The next tick starts tasks that fit now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.base.ids import new_id
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.money.budgets import Budget, BudgetPeriod, BudgetScope, BudgetUse, ExceededAction
from coordination.domain.money.caps import Caps, parse_caps, with_caps
from coordination.services.money import budgets as service
from coordination.store.queries.access import principals
from coordination.store.queries.agents import agents
from coordination.store.queries.money import budgets
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import runs, tasks


def set_budget(
    tx: Connection,
    workspace_id: str,
    caps: Caps,
    *,
    scope: BudgetScope,
    subject: str | None = None,
    period: BudgetPeriod = BudgetPeriod.TOTAL,
    actor: str | None = None,
) -> Budget:
    """Set the budget of *subject*: the id of a project, session, run or task, an agent's name, or None: the workspace.

    Raises NotFound for an unknown subject, Refused for a cap below what is spent already.
    """
    fields = {"subject": subject or workspace_id, **_subject_fields(tx, workspace_id, scope, subject)}
    budget = Budget(new_id(), scope, **fields, period=period, set_by=actor)
    return service.set_cap(tx, workspace_id, with_caps(caps, budget))


def amend_budget(
    tx: Connection,
    workspace_id: str,
    changes: Mapping[str, Any],
    *,
    scope: BudgetScope,
    subject: str | None = None,
    period: BudgetPeriod = BudgetPeriod.TOTAL,
    actor: str | None = None,
) -> Budget:
    """Apply *changes* (fields of ``parse_caps``) to a budget, which is created if there is none.

    Raises what ``set_budget`` does, and Refused for caps that contradict each other.
    """
    budget = budgets.lock_budget(tx, workspace_id, scope, subject or workspace_id, period)
    before = {} if budget is None else budget.caps_to_json()
    if changes.get("on_exceed", ExceededAction.DOWNGRADE) != ExceededAction.DOWNGRADE and "downgrade_to" not in changes:
        before.pop("downgrade_to", None)
    if changes.get("usd", ...) is None and not before.get("max_unpriced_calls"):
        before.pop("max_unpriced_calls", None)  # 0 follows from a cap in dollars
    caps = parse_caps({**before, **changes})
    return set_budget(tx, workspace_id, caps, scope=scope, subject=subject, period=period, actor=actor)


def check_budget(
    tx: Connection, workspace_id: str, budget: Budget, *, repair: bool = False
) -> tuple[BudgetUse, BudgetUse]:
    """Return the stored use of a budget's present period and the recomputed one; *repair*: store that."""
    if budgets.lock_budget(tx, workspace_id, budget.scope, budget.subject, budget.period) is None:
        return BudgetUse(budget.id, ""), BudgetUse(budget.id, "")  # removed meanwhile
    kept, counted = service.compare(tx, workspace_id, budget)
    if repair and (kept.spent, kept.reserved) != (counted.spent, counted.reserved):
        service.recount(tx, workspace_id, budget)
    return kept, counted


def remove_budget(tx: Connection, workspace_id: str, budget_id: str) -> None:
    """Remove a budget. Costs stay in the ledger."""
    if not budgets.remove(tx, workspace_id, budget_id):
        raise NotFound(f"There is no budget {budget_id}", hint="See: coord budgets list")


def _subject_fields(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str | None) -> dict[str, Any]:
    """Return the fields of a budget that follow from its subject: project, run, or an agent's id and name."""
    record: Any = None
    match scope:
        case BudgetScope.WORKSPACE:
            return {}
        case BudgetScope.PROJECT if subject and projects.get(tx, workspace_id, subject) is not None:
            return {"project_id": subject}
        case BudgetScope.AGENT if subject:
            if agents.find(tx, workspace_id, subject) is None and not agents.totals(tx, workspace_id, [subject]):
                names = [agent.profile.name for agent in agents.list_all(tx, workspace_id)]
                hint = did_you_mean(subject, names) or "See: coord agents list"
                raise NotFound(f"There is no agent {excerpt(subject)}, and no task was given to one", hint=hint)
            return {"subject": principals.agent_ids(tx, workspace_id, [subject])[subject], "agent": subject}
        case BudgetScope.SESSION if subject and (record := runs.get_session(tx, workspace_id, subject)) is not None:
            return {"project_id": record.project_id}
        case BudgetScope.RUN if subject and (record := runs.get(tx, workspace_id, subject)) is not None:
            return {"project_id": record.project_id, "run_id": record.id}
        case BudgetScope.TASK if subject and (record := tasks.get(tx, workspace_id, subject)) is not None:
            return {"project_id": record.project_id, "run_id": record.run_id}
    raise NotFound(f"There is no {scope} {subject or ''}".rstrip())
