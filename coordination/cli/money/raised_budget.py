"""Parses the arguments of ``coord budgets raise``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coordination.base.errors import Ambiguous, NotFound, Refused
from coordination.base.money import usd as dollars
from coordination.base.wording import excerpt

if TYPE_CHECKING:
    from coordination.api.connection import Coordination


def split_arguments(words: Sequence[str]) -> tuple[str | None, str | None, str]:
    """Return scope (None: not given), name (None: the workspace) and amount."""
    from coordination.domain.money.budgets import BudgetScope

    match words:
        case [BudgetScope.WORKSPACE, usd]:
            return BudgetScope.WORKSPACE, None, usd
        case [scope, _] if scope in set(BudgetScope):
            raise Refused(f"Give the {scope} and its new cap", hint=f"coord budgets raise {scope} NAME 5")
        case [name, usd]:
            return None, name, usd
        case [scope, name, usd]:
            return scope, name, usd
    raise Refused("Give the subject of the budget and its new cap", hint="coord budgets raise run NAME 5")


def scope_of(co: Coordination, name: str, usd: str) -> str:
    """Return ``run`` or ``project``, the scope that has the name. Raises Ambiguous where both have it."""

    from coordination.api.raised_budgets import raise_command

    cap = dollars(usd)
    try:
        project = co.project(name)
    except NotFound:
        return "run"
    try:
        co.run(name)
    except NotFound:
        return "project"
    except Ambiguous:
        pass  # several runs, and a project
    budgets = [status.budget for status in co.budgets.of("project", project.id) if status.budget.usd is not None]
    raise Ambiguous(
        f"There is a run and a project {excerpt(name)}",
        hint="Choose the budget:",
        commands=[
            f"coord budgets raise run {shlex.quote(name)} {cap:f}",
            *(raise_command("project", name, cap, budget.period) for budget in budgets),
        ],
    )
