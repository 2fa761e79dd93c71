"""Set, change and take away budgets. What waits for money is let go on by the next tick."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from coordination.domain.budgets import Budget, Caps, Period, Scope, budget_of
from coordination.errors import NotFound
from coordination.ids import new_id
from coordination.services import budgets as service
from coordination.store.queries import agents, budgets, projects, runs, tasks


def set_budget(
    tx: Connection,
    workspace_id: str,
    caps: Caps,
    *,
    scope: Scope,
    subject: str | None = None,
    period: Period = Period.TOTAL,
    actor: str | None = None,
) -> Budget:
    """Cap what *subject* may spend: the id of a project, session, run or task, or an agent's name; the workspace: none.

    Raises NotFound for what there is not, Refused for a cap below what is spent already.
    """
    whose = _whose(tx, workspace_id, scope, subject)
    wanted = Budget(new_id(), scope, subject or workspace_id, period=period, set_by=actor, **whose)
    return service.set_cap(tx, workspace_id, budget_of(caps, wanted))


def change_budget(tx: Connection, workspace_id: str, budget: Budget, caps: Caps, *, actor: str | None = None) -> Budget:
    """Give a budget other caps."""
    return service.set_cap(tx, workspace_id, replace(budget_of(caps, budget), set_by=actor))


def remove_budget(tx: Connection, workspace_id: str, budget_id: str) -> None:
    """Take a budget away; what was spent stays in the ledger."""
    if not budgets.remove(tx, workspace_id, budget_id):
        raise NotFound(f"There is no budget {budget_id}", hint="See: coord budgets list")


def _whose(tx: Connection, workspace_id: str, scope: Scope, subject: str | None) -> dict[str, Any]:
    """The project and the run that the subject is of, if it is of one."""
    found: Any = None
    match scope:
        case Scope.WORKSPACE:
            return {}
        case Scope.PROJECT if subject and projects.get(tx, workspace_id, subject) is not None:
            return {"project_id": subject}
        case Scope.AGENT if subject:
            agents.named(tx, workspace_id, subject)
            return {}
        case Scope.SESSION if subject and (found := runs.get_session(tx, workspace_id, subject)) is not None:
            return {"project_id": found.project_id}
        case Scope.RUN if subject and (found := runs.get(tx, workspace_id, subject)) is not None:
            return {"project_id": found.project_id, "run_id": found.id}
        case Scope.TASK if subject and (found := tasks.get(tx, workspace_id, subject)) is not None:
            return {"project_id": found.project_id, "run_id": found.run_id}
    raise NotFound(f"There is no {scope} {subject or ''}".rstrip())
