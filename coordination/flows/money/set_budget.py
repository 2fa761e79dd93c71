"""Set, change and take away budgets. What waits for money is let go on by the next tick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.base.ids import new_id
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.money.budgets import Budget, BudgetPeriod, BudgetScope, BudgetUse, ExceededAction
from coordination.domain.money.caps import Caps, budget_of, caps_of
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
    """Cap what *subject* may spend: the id of a project, session, run or task, or an agent's name; the workspace: none.

    Raises NotFound for what there is not, Refused for a cap below what is spent already.
    """
    whose = _whose(tx, workspace_id, scope, subject)
    wanted = Budget(new_id(), scope, **{"subject": subject or workspace_id, **whose}, period=period, set_by=actor)
    return service.set_cap(tx, workspace_id, budget_of(caps, wanted))


def amend_budget(
    tx: Connection,
    workspace_id: str,
    said: Mapping[str, Any],
    *,
    scope: BudgetScope,
    subject: str | None = None,
    period: BudgetPeriod = BudgetPeriod.TOTAL,
    actor: str | None = None,
) -> Budget:
    """Set what is *said* (as in ``caps_of``) of a budget, and leave the rest of it as it is; made where there is none.

    Raises what ``set_budget`` does, and Refused for caps that make no sense together.
    """
    known = budgets.find(tx, workspace_id, scope, subject or workspace_id, period)
    before = {} if known is None else known.said()
    if said.get("on_exceed", ExceededAction.DOWNGRADE) != ExceededAction.DOWNGRADE and "downgrade_to" not in said:
        before.pop("downgrade_to", None)
    if said.get("usd", ...) is None and not before.get("max_unpriced_calls"):
        before.pop("max_unpriced_calls", None)  # that none are allowed was said of the dollars
    caps = caps_of({**before, **said})
    return set_budget(tx, workspace_id, caps, scope=scope, subject=subject, period=period, actor=actor)


def check_budget(
    tx: Connection, workspace_id: str, budget: Budget, *, repair: bool = False
) -> tuple[BudgetUse, BudgetUse]:
    """What is kept of a budget's present period, and what the ledger and the attempts add up to; *repair*: kept now."""
    if budgets.find(tx, workspace_id, budget.scope, budget.subject, budget.period) is None:
        return BudgetUse(budget.id, ""), BudgetUse(budget.id, "")  # it was taken away meanwhile
    kept, counted = service.compare(tx, workspace_id, budget)
    if repair and (kept.spent, kept.reserved) != (counted.spent, counted.reserved):
        service.count(tx, workspace_id, budget)
    return kept, counted


def remove_budget(tx: Connection, workspace_id: str, budget_id: str) -> None:
    """Take a budget away; what was spent stays in the ledger."""
    if not budgets.remove(tx, workspace_id, budget_id):
        raise NotFound(f"There is no budget {budget_id}", hint="See: coord budgets list")


def _whose(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str | None) -> dict[str, Any]:
    """The project and the run that the subject is of, if it is of one."""
    found: Any = None
    match scope:
        case BudgetScope.WORKSPACE:
            return {}
        case BudgetScope.PROJECT if subject and projects.get(tx, workspace_id, subject) is not None:
            return {"project_id": subject}
        case BudgetScope.AGENT if subject:
            if agents.find(tx, workspace_id, subject) is None and not agents.totals(tx, workspace_id, [subject]):
                known = [agent.profile.name for agent in agents.list_all(tx, workspace_id)]
                hint = did_you_mean(subject, known) or "See: coord agents list"
                raise NotFound(f"There is no agent {excerpt(subject)}, and no task was given to one", hint=hint)
            return {"subject": principals.agent_ids(tx, workspace_id, [subject])[subject], "agent": subject}
        case BudgetScope.SESSION if subject and (found := runs.get_session(tx, workspace_id, subject)) is not None:
            return {"project_id": found.project_id}
        case BudgetScope.RUN if subject and (found := runs.get(tx, workspace_id, subject)) is not None:
            return {"project_id": found.project_id, "run_id": found.id}
        case BudgetScope.TASK if subject and (found := tasks.get(tx, workspace_id, subject)) is not None:
            return {"project_id": found.project_id, "run_id": found.run_id}
    raise NotFound(f"There is no {scope} {subject or ''}".rstrip())
