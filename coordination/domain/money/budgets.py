"""Budgets: caps on spending, and the arithmetic of spent, reserved and remaining amounts.

Money is reserved before a job starts and becomes spent as the job reports costs, so that concurrent jobs cannot exceed
a cap together. The costs of an attempt count in the period in which it was claimed, where they were reserved.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, tzinfo
from decimal import Decimal
from enum import StrEnum
from functools import reduce
from typing import Any

from coordination.base.money import ZERO, minus, plus, show_usd
from coordination.base.wording import plural

WARN_AT = 80
"""The default percentage of a cap at which a budget warns."""


class BudgetScope(StrEnum):
    """The kind of subject whose spending a budget caps."""

    WORKSPACE = "workspace"
    PROJECT = "project"
    AGENT = "agent"
    SESSION = "session"
    RUN = "run"
    TASK = "task"


class BudgetPeriod(StrEnum):
    """The time after which a cap starts again, in the workspace's time zone."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


class ExceededAction(StrEnum):
    """What happens when a budget is reached."""

    WARN = "warn"  # holds no task
    BLOCK = "block"  # holds tasks until it is raised or its period is over
    DOWNGRADE = "downgrade"  # from its warning on, jobs use a cheaper model; once it is reached, it holds them


def budget_subjects(workspace_id: str, task_id: str | None, of: Mapping[str, Any]) -> list[tuple[BudgetScope, str]]:
    """Return whose budgets apply to a task or its costs; *of*: its project_id, agent_id, session_id and run_id."""
    subjects = {
        BudgetScope.WORKSPACE: workspace_id,
        BudgetScope.PROJECT: of["project_id"],
        BudgetScope.AGENT: of["agent_id"],
        BudgetScope.SESSION: of["session_id"],
        BudgetScope.RUN: of["run_id"],
        BudgetScope.TASK: task_id,
    }
    return [(scope, subject) for scope, subject in subjects.items() if subject is not None]


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of dollars, tokens, calls whose price is unknown, and starts of agents and chats."""

    usd: Decimal = ZERO
    tokens: int = 0
    unpriced: int = 0
    starts: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            plus(self.usd, other.usd),
            self.tokens + other.tokens,
            self.unpriced + other.unpriced,
            self.starts + other.starts,
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            plus(self.usd, minus(other.usd)),
            self.tokens - other.tokens,
            self.unpriced - other.unpriced,
            self.starts - other.starts,
        )

    def __bool__(self) -> bool:
        return bool(self.usd or self.tokens or self.unpriced or self.starts)

    def max_with(self, other: Amount) -> Amount:
        """Return the larger value of each field."""
        return Amount(*(max(getattr(self, spec.name), getattr(other, spec.name)) for spec in fields(self)))

    def without_starts(self) -> Amount:
        """Return the part that can be reserved, and released when it was not needed."""
        return Amount(self.usd, self.tokens, self.unpriced)

    def to_json(self) -> dict[str, Any]:
        """Return the stored form: dollars as exact text, without zeros."""
        usd = {"usd": f"{self.usd:f}"} if self.usd else {}
        counts = {"tokens": self.tokens, "unpriced": self.unpriced, "starts": self.starts}
        return usd | {name: count for name, count in counts.items() if count}


NOTHING = Amount()

NEEDS = "needs"
"""The key of a task's carried data that stores what the next call of a job needs that a budget stopped."""


def read_amount(stored: Mapping[str, Any]) -> Amount:
    """Parse the result of ``Amount.to_json``."""
    tokens, unpriced, starts = (int(stored.get(name, 0)) for name in ("tokens", "unpriced", "starts"))
    return Amount(Decimal(stored.get("usd", "0")), tokens, unpriced, starts)


def sum_amounts(amounts: Iterable[Amount]) -> Amount:
    """Add up amounts."""
    return sum(amounts, NOTHING)


@dataclass(frozen=True, slots=True)
class Budget:
    """The caps of one subject and period. ``usd``, ``tokens``, ``unpriced_calls``, ``max_starts``: None is no cap.

    ``subject``: an id. ``agent``: the name of that agent. ``warn_percent``: the share of a cap at which it warns.
    """

    id: str
    scope: BudgetScope
    subject: str
    period: BudgetPeriod = BudgetPeriod.TOTAL
    usd: Decimal | None = None
    tokens: int | None = None
    unpriced_calls: int | None = None
    max_starts: int | None = None
    action: ExceededAction = ExceededAction.BLOCK
    warn_percent: int | None = WARN_AT
    downgrade_to: str | None = None
    project_id: str | None = None
    run_id: str | None = None
    set_by: str | None = None
    set_at: datetime | None = None
    agent: str | None = None

    @property
    def shown_subject(self) -> str:
        """Return the subject as in commands: an agent's name, otherwise the id."""
        return self.agent or self.subject

    @property
    def holds(self) -> bool:
        """Return whether the budget can hold tasks."""
        return self.action is not ExceededAction.WARN

    def title(self) -> str:
        """Return its name for people: ``the run's budget``, ``the agent ann's budget of the day``."""
        when = "" if self.period is BudgetPeriod.TOTAL else f" of the {self.period}"
        whose = f"the agent {self.shown_subject}" if self.scope is BudgetScope.AGENT else f"the {self.scope}"
        return f"{whose}'s budget{when}"

    def address(self) -> str:
        """Return the arguments that name it in commands: ``run 0199…``, ``agent ann --period day``."""
        whose = "" if self.scope is BudgetScope.WORKSPACE else f" {shlex.quote(self.shown_subject)}"
        return f"{self.scope}{whose}" + ("" if self.period is BudgetPeriod.TOTAL else f" --period {self.period}")

    def caps_to_json(self) -> dict[str, Any]:
        """Return the caps in the form that ``parse_caps`` reads."""
        body: dict[str, Any] = {"on_exceed": self.action.value, "warn_at": self.warn_percent}
        if self.usd is not None or self.unpriced_calls is not None:
            body["max_unpriced_calls"] = self.unpriced_calls
        caps = {"usd": self.usd, "tokens": self.tokens, "starts": self.max_starts}
        return body | caps | {"downgrade_to": self.downgrade_to}

    def describe_caps(self) -> str:
        """Return the caps for people: ``$5.00, 100,000 tokens``."""
        parts = []
        if self.usd is not None:
            parts.append(show_usd(self.usd))
        if self.tokens is not None:
            parts.append(f"{self.tokens:,} tokens")
        if self.max_starts is not None:
            parts.append(plural(self.max_starts, "start"))
        if self.unpriced_calls or (self.unpriced_calls is not None and self.usd is None):
            parts.append(f"{plural(self.unpriced_calls, 'call')} of unknown price")
        elif self.unpriced_calls is None and self.usd is not None:
            parts.append("any calls of unknown price")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """The use of one period of a budget so far. A start counts as spent from its claim on and is never reserved."""

    budget_id: str
    starts: str
    spent: Amount = NOTHING
    reserved: Amount = NOTHING
    warned: bool = False
    reached: bool = False

    @property
    def committed(self) -> Amount:
        """Return the sum of spent and reserved."""
        return self.spent + self.reserved

    def with_claim(self, more: Amount) -> BudgetUse:
        """Return the use after a claim of *more*. Without ``replace``, because every claim computes it per budget."""
        spent = self.spent + Amount(starts=more.starts) if more.starts else self.spent
        reserved = self.reserved + (more.without_starts() if more.starts else more)
        return BudgetUse(self.budget_id, self.starts, spent, reserved, self.warned, self.reached)

    def without_claim(self, less: Amount) -> BudgetUse:
        """Return the use after *less* of a claim was released, at least zero."""
        spent = (self.spent - Amount(starts=less.starts)).max_with(NOTHING) if less.starts else self.spent
        return replace(self, spent=spent, reserved=(self.reserved - less.without_starts()).max_with(NOTHING))


@dataclass(frozen=True, slots=True)
class BudgetShortage:
    """Why *wanted* exceeds a budget, in the field *what*. ``passing``: only because running jobs have reserved more."""

    budget: Budget
    use: BudgetUse
    wanted: Amount
    what: str
    passing: bool

    @property
    def passed(self) -> bool:
        """Return whether the cap is exceeded already."""
        return bool(getattr(self.use.committed, self.what) > self._cap)

    @property
    def _cap(self) -> Any:
        """The cap that is exceeded."""
        return dict(_caps(self.budget))[self.what]

    def sentence(self) -> str:
        """Return the shortage as a sentence for people."""
        budget, use, cap = self.budget, self.use, self._cap
        if self.what == "unpriced":
            calls = f"{plural(use.spent.unpriced, 'was', 'were')} made and {self.wanted.unpriced:,} more may come"
            return f"{budget.title()} allows {plural(cap, 'call')} of unknown price; {calls}"
        show, show_part = _SHOW[self.what]
        left = max(cap - getattr(use.committed, self.what), 0)
        reserved, wanted = show_part(getattr(use.reserved, self.what)), show(getattr(self.wanted, self.what))
        waiting = f", {reserved} of it reserved by running jobs" if self.passing else ""
        return f"{budget.title()} of {show(cap)} has {show_part(left)} left{waiting}; this needs {wanted}"

    def hint(self) -> str:
        """Return what the user can do."""
        command = f"coord budgets set {self.budget.address()}"
        if self.what == "unpriced":
            return f"Set the model's price (coord prices set), or allow more such calls: {command} --unpriced-calls N"
        if self.passing:
            return "It starts when they spend less than that"
        if self.budget.scope is BudgetScope.RUN and self.budget.period is BudgetPeriod.TOTAL and self.what == "usd":
            return f"Raise it: coord budgets raise run {self.budget.subject} USD"
        later = "" if self.budget.period is BudgetPeriod.TOTAL else f"It starts when the {self.budget.period} is over. "
        return f"{later}Raise it: {command} --{self.what} N"


_SHOW: Mapping[str, tuple[Callable[[Any], str], Callable[[Any], str]]] = {
    "usd": (show_usd, show_usd),
    "tokens": ("{:,} tokens".format, "{:,}".format),
    "starts": (lambda count: plural(count, "start"), "{:,}".format),
}
"""How sentences write an amount, with and without its unit."""


def find_shortage(budget: Budget, use: BudgetUse, wanted: Amount) -> BudgetShortage | None:
    """Return why *wanted* exceeds the budget, or None when it fits."""
    if not wanted:
        return None  # jobs without costs run even when the budget is exceeded
    committed = use.committed
    for what, cap in _caps(budget):
        if cap is not None and getattr(wanted, what) > 0 and getattr(committed + wanted, what) > cap:
            return BudgetShortage(budget, use, wanted, what, passing=getattr(use.spent + wanted, what) <= cap)
    return None


def _caps(budget: Budget) -> tuple[tuple[str, Decimal | int | None], ...]:
    """Return the caps by the fields of ``Amount``."""
    return (
        ("usd", budget.usd),
        ("tokens", budget.tokens),
        ("unpriced", budget.unpriced_calls),
        ("starts", budget.max_starts),
    )


def is_reached(budget: Budget, spent: Amount) -> bool:
    """Return whether a cap is used up."""
    return (
        (budget.usd is not None and spent.usd >= budget.usd)
        or (budget.tokens is not None and spent.tokens >= budget.tokens)
        or (budget.unpriced_calls is not None and spent.unpriced > budget.unpriced_calls)
        or (budget.max_starts is not None and spent.starts >= budget.max_starts)
    )


def is_warning_due(budget: Budget, amount: Amount) -> bool:
    """Return whether *amount* is at least the share of a cap at which the budget warns."""
    if budget.warn_percent is None:
        return False
    share = Decimal(budget.warn_percent) / 100
    return (
        (budget.usd is not None and amount.usd >= budget.usd * share and amount.usd > 0)
        or (budget.tokens is not None and amount.tokens >= budget.tokens * share and amount.tokens > 0)
        or (budget.max_starts is not None and amount.starts >= budget.max_starts * share and amount.starts > 0)
    )


def period_start(period: BudgetPeriod, moment: datetime, zone: tzinfo) -> str:
    """Return the first day of the period of *moment*, as ``2027-01-31``; empty for a total."""
    if period is BudgetPeriod.TOTAL:
        return ""
    day = moment.astimezone(zone).date()
    return (day if period is BudgetPeriod.DAY else day.replace(day=1)).isoformat()


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one attempt may still spend. ``of``: (budget id, first day) of the periods in which it is reserved.

    ``largest``: its most expensive call so far. ``amount.starts``: 1 if it counts as a start.
    """

    amount: Amount = NOTHING
    of: Sequence[tuple[str, str]] = ()
    largest: Amount = NOTHING

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with the attempt."""
        body: dict[str, Any] = {**self.amount.to_json(), "of": [list(each) for each in self.of]}
        return body | ({"largest": self.largest.to_json()} if self.largest else {})

    def after(self, calls: Sequence[Amount]) -> Reservation:
        """Return the reservation after these calls, at least zero."""
        left = (self.amount - sum_amounts(calls)).max_with(NOTHING)
        return replace(self, amount=left, largest=reduce(Amount.max_with, calls, self.largest))

    def missing(self) -> Amount:
        """Return what must be added so that another call like the largest is covered."""
        return (self.largest - self.amount).max_with(NOTHING)


def read_reservation(stored: Mapping[str, Any]) -> Reservation:
    """Parse the result of ``Reservation.to_json``."""
    return Reservation(
        read_amount(stored),
        tuple((str(budget_id), str(starts)) for budget_id, starts in stored.get("of", ())),
        read_amount(stored.get("largest", {})),
    )
