"""The status of a budget: what was spent in its present period, and how many tasks wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from coordination.base.money import ZERO
from coordination.domain.money.budgets import Amount, Budget, BudgetPeriod, BudgetScope, BudgetUse, ExceededAction

_WHOLE = Decimal(100)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget and its present use. ``name``: its subject, for people. ``waiting``: the number of tasks it holds."""

    budget: Budget
    name: str
    use: BudgetUse
    waiting: int = 0

    @property
    def scope(self) -> BudgetScope:
        """Return the kind of subject: workspace, project, agent, session, run or task."""
        return self.budget.scope

    @property
    def period(self) -> BudgetPeriod:
        """Return total, day or month."""
        return self.budget.period

    @property
    def usd(self) -> Decimal | None:
        """Return the cap in dollars, if there is one."""
        return self.budget.usd

    @property
    def tokens(self) -> int | None:
        """Return the cap in tokens, if there is one."""
        return self.budget.tokens

    @property
    def max_starts(self) -> int | None:
        """Return the cap in starts of agents and chats, if there is one."""
        return self.budget.max_starts

    @property
    def on_exceed(self) -> ExceededAction:
        """Return what happens when the budget is reached."""
        return self.budget.action

    @property
    def spent(self) -> Amount:
        """Return the costs in the ledger for the period, and the starts that were claimed in it."""
        return self.use.spent

    @property
    def reserved(self) -> Amount:
        """Return what running jobs may still spend."""
        return self.use.reserved

    @property
    def left_usd(self) -> Decimal | None:
        """Return the dollars that are neither spent nor reserved; None without a cap in dollars."""
        return None if self.budget.usd is None else max(self.budget.usd - self.use.committed.usd, ZERO)

    @property
    def left_tokens(self) -> int | None:
        """Return the same for tokens."""
        return None if self.budget.tokens is None else max(self.budget.tokens - self.use.committed.tokens, 0)

    @property
    def left_starts(self) -> int | None:
        """Return the same for starts."""
        return None if self.budget.max_starts is None else max(self.budget.max_starts - self.use.committed.starts, 0)

    @property
    def percent(self) -> int | None:
        """Return the spent share of the cap, rounded down, or the largest one; None: only unpriced calls are capped."""
        spent, budget = self.use.spent, self.budget
        caps = ((spent.usd, budget.usd), (spent.tokens, budget.tokens), (spent.starts, budget.max_starts))
        shares = [Decimal(used) / cap * _WHOLE if cap else _WHOLE for used, cap in caps if cap is not None]
        return int(max(shares)) if shares else None


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """The stored counters of a budget, and those recomputed from the ledger and the running attempts."""

    budget: Budget
    name: str
    kept: BudgetUse
    counted: BudgetUse

    @property
    def right(self) -> bool:
        """Return whether both are equal."""
        return (self.kept.spent, self.kept.reserved) == (self.counted.spent, self.counted.reserved)
