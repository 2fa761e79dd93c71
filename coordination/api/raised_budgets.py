"""Raises the cap of a budget: chooses among a subject's budgets, and checks that the cap grows."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from decimal import Decimal

from sqlalchemy import Connection

from coordination.base.errors import Ambiguous, Refused
from coordination.base.money import show_usd
from coordination.domain.money.budgets import Budget, BudgetPeriod, BudgetScope
from coordination.flows.money.set_budget import amend_budget
from coordination.runtime import Runtime
from coordination.store.queries.money import budgets


def raise_budget(
    runtime: Runtime,
    scope: BudgetScope,
    name: str | None,
    subject: str | None,
    *,
    cap: Decimal,
    period: BudgetPeriod | None,
    hint_without_budget: Callable[[], str],
) -> Budget:
    """Raise the cap in dollars of a budget of *subject*, whose name is *name*.

    *period* None: the total one, if it is the only one. *hint_without_budget*: returns the hint for a run without one.
    Raises Ambiguous with the commands if a budget has a period, Refused if there is none or the cap does not grow.
    """
    title = f"{scope} {name}" if name else f"{scope}"
    typed = f"{scope} {shlex.quote(name)}" if name else f"{scope}"
    whose = subject or runtime.workspace_id

    def store(tx: Connection) -> Budget | None:
        all_budgets = budgets.of_subject(tx, runtime.workspace_id, scope, whose)
        candidates = [one for one in all_budgets if one.usd is not None and period in (None, one.period)]
        if not candidates:
            return None
        if period is None and (len(candidates) > 1 or candidates[0].period is not BudgetPeriod.TOTAL):
            periods = ", ".join(f"{one.period} ({show_usd(one.usd)})" for one in candidates if one.usd is not None)
            raise Ambiguous(
                f"The {title} has budgets by period: {periods}",
                hint="Choose the budget:",
                field="period",
                commands=[raise_command(scope, name, cap, one.period) for one in candidates],
            )
        which = candidates[0].period
        now = budgets.lock_budget(tx, runtime.workspace_id, scope, whose, which)
        if now is None or now.usd is None:
            return None
        if cap <= now.usd:
            lower = f"coord budgets set {typed} --usd {cap:f}" + (
                "" if which is BudgetPeriod.TOTAL else f" --period {which}"
            )
            raise Refused(
                f"The {scope}'s budget is {show_usd(now.usd)} already: {show_usd(cap)} does not raise it",
                hint=f"To lower it: {lower}" if cap < now.usd else None,
            )
        fields = {"usd": cap}
        return amend_budget(
            tx, runtime.workspace_id, fields, scope=scope, subject=subject, period=which, actor=runtime.actor
        )

    raised = runtime.store.transact(store)
    if raised is None:
        of = "" if period in (None, BudgetPeriod.TOTAL) else f" of the {period}"
        hint = hint_without_budget() if scope is BudgetScope.RUN else f"Give it one: coord budgets set {typed} --usd N"
        raise Refused(f"The {title} has no budget in dollars{of}", hint=hint)
    return raised


def raise_command(scope: BudgetScope | str, name: str | None, cap: Decimal, period: BudgetPeriod) -> str:
    """Return the command that raises a budget to *cap*."""
    whose = f" {shlex.quote(name)}" if name else ""
    return f"coord budgets raise {scope}{whose} {cap:f} --period {period}"
