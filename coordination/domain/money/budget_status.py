"""How a budget stands: what its present period came to, and how many tasks wait for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from coordination.base.money import ZERO
from coordination.domain.money.budgets import Amount, Budget, BudgetPeriod, BudgetScope, BudgetUse, ExceededAction

_WHOLE = Decimal(100)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget and what its present period came to. ``name``: whose it is, for people.

    ``waiting``: so many tasks wait because it has too little left.
    """

    budget: Budget
    name: str
    use: BudgetUse
    waiting: int = 0

    @property
    def scope(self) -> BudgetScope:
        """Whose kind: workspace, project, agent, session, run or task."""
        return self.budget.scope

    @property
    def period(self) -> BudgetPeriod:
        """total, day or month."""
        return self.budget.period

    @property
    def usd(self) -> Decimal | None:
        """The cap in dollars; None: none."""
        return self.budget.usd

    @property
    def tokens(self) -> int | None:
        """The cap in tokens; None: none."""
        return self.budget.tokens

    @property
    def max_starts(self) -> int | None:
        """The cap in starts of agents and chats; None: none."""
        return self.budget.max_starts

    @property
    def on_exceed(self) -> ExceededAction:
        """What it does when it is reached."""
        return self.budget.action

    @property
    def spent(self) -> Amount:
        """What the ledger has of its period, and the starts that were claimed in it."""
        return self.use.spent

    @property
    def reserved(self) -> Amount:
        """What jobs that run now may still spend of it."""
        return self.use.reserved

    @property
    def left_usd(self) -> Decimal | None:
        """Dollars that nobody has spent or reserved; None without a cap on them."""
        return None if self.budget.usd is None else max(self.budget.usd - self.use.taken.usd, ZERO)

    @property
    def left_tokens(self) -> int | None:
        """The same of tokens."""
        return None if self.budget.tokens is None else max(self.budget.tokens - self.use.taken.tokens, 0)

    @property
    def left_starts(self) -> int | None:
        """The same of starts."""
        return None if self.budget.max_starts is None else max(self.budget.max_starts - self.use.taken.starts, 0)

    @property
    def percent(self) -> int | None:
        """How much of its cap is spent; of several, of that which is nearest. None where it caps only unpriced calls.

        A hundred only when nothing is left.
        """
        spent, budget = self.use.spent, self.budget
        caps = (
            (spent.usd, budget.usd),
            (Decimal(spent.tokens), budget.tokens),
            (Decimal(spent.starts), budget.max_starts),
        )
        shares = [used / cap * _WHOLE if cap else _WHOLE for used, cap in caps if cap is not None]
        return int(max(shares)) if shares else None


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """A budget's counters beside what the ledger and the running attempts add up to."""

    budget: Budget
    name: str
    kept: BudgetUse
    counted: BudgetUse

    @property
    def right(self) -> bool:
        """Whether they say the same."""
        return (self.kept.spent, self.kept.reserved) == (self.counted.spent, self.counted.reserved)
