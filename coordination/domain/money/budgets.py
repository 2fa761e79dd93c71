"""Budgets: caps on what may be spent, and the arithmetic of spent, reserved and left. Pure.

Money is reserved before a job starts and becomes spent as the job reports it, so that any number of jobs side by side
never pass a cap together. What an attempt spends counts in the period in which the attempt was claimed: it was reserved
there.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from decimal import Decimal
from enum import StrEnum
from typing import Any

from coordination.base.money import ZERO, minus, plus, show_usd
from coordination.base.wording import plural

WARN_AT = 80
"""Percent of a cap at which a budget warns, if it says nothing else."""


class BudgetScope(StrEnum):
    """Whose spending a budget caps."""

    WORKSPACE = "workspace"
    PROJECT = "project"
    AGENT = "agent"
    SESSION = "session"
    RUN = "run"
    TASK = "task"


class BudgetPeriod(StrEnum):
    """How long a cap lasts until it begins anew, in the workspace's time zone."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


class ExceededAction(StrEnum):
    """What a budget does when it is reached."""

    WARN = "warn"  # tells, and holds nothing back
    BLOCK = "block"  # tasks wait until it is raised or its period is over
    DOWNGRADE = "downgrade"  # from its warning on, jobs use a cheaper model; when it is reached, they wait


def subjects_of(workspace_id: str, task_id: str | None, of: Mapping[str, Any]) -> list[tuple[BudgetScope, str]]:
    """Return whose budgets apply to a task, or its costs; *of*: its project_id, agent_id, session_id and run_id."""
    named = {
        BudgetScope.WORKSPACE: workspace_id,
        BudgetScope.PROJECT: of["project_id"],
        BudgetScope.AGENT: of["agent_id"],
        BudgetScope.SESSION: of["session_id"],
        BudgetScope.RUN: of["run_id"],
        BudgetScope.TASK: task_id,
    }
    return [(scope, subject) for scope, subject in named.items() if subject is not None]


@dataclass(frozen=True, slots=True)
class Amount:
    """Dollars with a known price, tokens, calls whose price is unknown, and starts of agents and chats."""

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

    def most(self, other: Amount) -> Amount:
        """The larger of each."""
        return Amount(
            max(self.usd, other.usd),
            max(self.tokens, other.tokens),
            max(self.unpriced, other.unpriced),
            max(self.starts, other.starts),
        )

    def without_starts(self) -> Amount:
        """The same without its starts: what can be reserved, and given back when it was not needed."""
        return Amount(self.usd, self.tokens, self.unpriced)

    def to_json(self) -> dict[str, Any]:
        """As it is kept: exact dollars as a text, what is zero left out."""
        body = {
            "usd": f"{self.usd:f}" if self.usd else None,
            "tokens": self.tokens,
            "unpriced": self.unpriced,
            "starts": self.starts,
        }
        return {name: value for name, value in body.items() if value}


NOTHING = Amount()

NEEDS = "needs"
"""The key under which a job that was stopped for want of money leaves to its next attempt what its next call needs."""


def amount_of(stored: Mapping[str, Any]) -> Amount:
    """What ``Amount.to_json`` wrote."""
    tokens, unpriced, starts = (int(stored.get(name, 0)) for name in ("tokens", "unpriced", "starts"))
    return Amount(Decimal(stored.get("usd", "0")), tokens, unpriced, starts)


def total(amounts: Iterable[Amount]) -> Amount:
    """All of them together."""
    return sum(amounts, NOTHING)


@dataclass(frozen=True, slots=True)
class Budget:
    """One cap. ``usd``, ``tokens``, ``unpriced_calls``, ``max_starts``: None is no cap on that.

    ``subject``: whose it is, an id. ``agent``: the name of that agent. ``warn_percent``: of the cap, when it is told.
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
        """The subject as people write it: an agent by its name, all else by id."""
        return self.agent or self.subject

    @property
    def holds(self) -> bool:
        """Whether it ever holds a job back."""
        return self.action is not ExceededAction.WARN

    def named(self) -> str:
        """For people: ``the run's budget``, ``the agent's budget of the day``."""
        when = "" if self.period is BudgetPeriod.TOTAL else f" of the {self.period}"
        whose = f"the agent {self.shown_subject}" if self.scope is BudgetScope.AGENT else f"the {self.scope}"
        return f"{whose}'s budget{when}"

    def address(self) -> str:
        """How commands name it: ``run 0199…``, ``agent ann --period day``."""
        whose = "" if self.scope is BudgetScope.WORKSPACE else f" {shlex.quote(self.shown_subject)}"
        return f"{self.scope}{whose}" + ("" if self.period is BudgetPeriod.TOTAL else f" --period {self.period}")

    def said(self) -> dict[str, Any]:
        """Its caps, as ``caps_of`` reads them."""
        body: dict[str, Any] = {"on_exceed": self.action.value, "warn_at": self.warn_percent}
        if self.usd is not None or self.unpriced_calls is not None:
            body["max_unpriced_calls"] = self.unpriced_calls
        caps = {"usd": self.usd, "tokens": self.tokens, "starts": self.max_starts}
        return body | caps | {"downgrade_to": self.downgrade_to}

    def caps(self) -> str:
        """For people: ``$5.00, 100,000 tokens``."""
        said = []
        if self.usd is not None:
            said.append(show_usd(self.usd))
        if self.tokens is not None:
            said.append(f"{self.tokens:,} tokens")
        if self.max_starts is not None:
            said.append(plural(self.max_starts, "start"))
        if self.unpriced_calls or (self.unpriced_calls is not None and self.usd is None):
            said.append(f"{plural(self.unpriced_calls, 'call')} of unknown price")
        elif self.unpriced_calls is None and self.usd is not None:
            said.append("any calls of unknown price")
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What one period of a budget came to so far. A start counts as spent from its claim on, and is never reserved."""

    budget_id: str
    starts: str
    spent: Amount = NOTHING
    reserved: Amount = NOTHING
    warned: bool = False
    reached: bool = False

    @property
    def taken(self) -> Amount:
        """Spent or reserved."""
        return self.spent + self.reserved

    def reserving(self, more: Amount) -> BudgetUse:
        """The same after a claim of *more*. Not by ``replace``: every claim of every task asks it of every budget."""
        spent = self.spent + Amount(starts=more.starts) if more.starts else self.spent
        reserved = self.reserved + (more.without_starts() if more.starts else more)
        return BudgetUse(self.budget_id, self.starts, spent, reserved, self.warned, self.reached)

    def releasing(self, less: Amount) -> BudgetUse:
        """The same after *less* of a claim was given back; never below nothing."""
        spent = (self.spent - Amount(starts=less.starts)).most(NOTHING) if less.starts else self.spent
        return replace(self, spent=spent, reserved=(self.reserved - less.without_starts()).most(NOTHING))


@dataclass(frozen=True, slots=True)
class BudgetShortage:
    """Why something does not fit. ``passing``: it would, if jobs that run now spend less than they have reserved."""

    budget: Budget
    use: BudgetUse
    wanted: Amount
    what: str
    passing: bool

    @property
    def passed(self) -> bool:
        """Whether more than the cap is taken already."""
        cap = dict(_caps(self.budget))[self.what]
        return cap is not None and getattr(self.use.taken, self.what) > cap

    def sentence(self) -> str:
        """For people."""
        budget, use = self.budget, self.use
        if self.what == "usd":
            assert budget.usd is not None  # noqa: S101 - it is what was short
            left, wanted = show_usd(max(plus(budget.usd, minus(use.taken.usd)), ZERO)), show_usd(self.wanted.usd)
            cap, reserved = show_usd(budget.usd), show_usd(use.reserved.usd)
        elif self.what == "tokens":
            assert budget.tokens is not None  # noqa: S101 - the same
            left, wanted = f"{max(budget.tokens - use.taken.tokens, 0):,}", f"{self.wanted.tokens:,} tokens"
            cap, reserved = f"{budget.tokens:,} tokens", f"{use.reserved.tokens:,}"
        elif self.what == "starts":
            assert budget.max_starts is not None  # noqa: S101 - the same
            left, wanted = f"{max(budget.max_starts - use.taken.starts, 0):,}", plural(self.wanted.starts, "start")
            cap, reserved = plural(budget.max_starts, "start"), "none"
        else:
            assert budget.unpriced_calls is not None  # noqa: S101 - the same
            made = f"{plural(use.spent.unpriced, 'was', 'were')} made and {self.wanted.unpriced:,} more may come"
            return f"{budget.named()} allows {plural(budget.unpriced_calls, 'call')} of unknown price; {made}"
        waiting = f", {reserved} of it reserved by jobs that run" if self.passing else ""
        return f"{budget.named()} of {cap} has {left} left{waiting}; this needs {wanted}"

    def hint(self) -> str:
        """What can be done about it."""
        command = f"coord budgets set {self.budget.address()}"
        if self.what == "unpriced":
            return f"Set the model's price (coord prices set), or allow more such calls: {command} --unpriced-calls N"
        if self.passing:
            return "It goes on by itself when they spend less than that"
        if self.budget.scope is BudgetScope.RUN and self.budget.period is BudgetPeriod.TOTAL and self.what == "usd":
            return f"Raise it: coord budgets raise run {self.budget.subject} USD"
        itself = (
            "" if self.budget.period is BudgetPeriod.TOTAL else f"It goes on when the {self.budget.period} is over. "
        )
        return f"{itself}Raise it: {command} --{self.what} N"


def short(budget: Budget, use: BudgetUse, wanted: Amount) -> BudgetShortage | None:
    """Why *wanted* does not fit into the budget beside what is spent and reserved; None: it fits.

    What is wanted of nothing always fits: a job that costs nothing runs, however much others spent.
    """
    if not wanted:
        return None
    taken = use.taken
    for what, cap in _caps(budget):
        asked = getattr(wanted, what)
        if cap is not None and asked > 0 and getattr(taken + wanted, what) > cap:
            return BudgetShortage(budget, use, wanted, what, passing=getattr(use.spent + wanted, what) <= cap)
    return None


def _caps(budget: Budget) -> tuple[tuple[str, Decimal | int | None], ...]:
    """The caps, by the fields of an Amount."""
    return (
        ("usd", budget.usd),
        ("tokens", budget.tokens),
        ("unpriced", budget.unpriced_calls),
        ("starts", budget.max_starts),
    )


def reached(budget: Budget, spent: Amount) -> bool:
    """Whether nothing is left of a cap."""
    return (
        (budget.usd is not None and spent.usd >= budget.usd)
        or (budget.tokens is not None and spent.tokens >= budget.tokens)
        or (budget.unpriced_calls is not None and spent.unpriced > budget.unpriced_calls)
        or (budget.max_starts is not None and spent.starts >= budget.max_starts)
    )


def due_to_warn(budget: Budget, amount: Amount) -> bool:
    """Whether *amount* is at least the share of the cap at which a budget warns."""
    if budget.warn_percent is None:
        return False
    share = Decimal(budget.warn_percent) / 100
    return (
        (budget.usd is not None and amount.usd >= budget.usd * share and amount.usd > 0)
        or (budget.tokens is not None and amount.tokens >= budget.tokens * share and amount.tokens > 0)
        or (budget.max_starts is not None and amount.starts >= budget.max_starts * share and amount.starts > 0)
    )


def starts_of(period: BudgetPeriod, moment: datetime, zone: tzinfo) -> str:
    """The first day of the period that *moment* is in, as ``2027-01-31``; '' of one that never begins anew."""
    if period is BudgetPeriod.TOTAL:
        return ""
    day = moment.astimezone(zone).date()
    return (day if period is BudgetPeriod.DAY else day.replace(day=1)).isoformat()


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one attempt may still spend, of which periods of which budgets; ``largest``: its dearest call so far.

    ``amount.starts``: 1 where it counts as a start of them.
    """

    amount: Amount = NOTHING
    of: Sequence[tuple[str, str]] = ()
    largest: Amount = NOTHING

    def to_json(self) -> dict[str, Any]:
        """As it is kept with the attempt."""
        body: dict[str, Any] = {**self.amount.to_json(), "of": [list(each) for each in self.of]}
        return body | ({"largest": self.largest.to_json()} if self.largest else {})

    def after(self, spent: Sequence[Amount]) -> Reservation:
        """After these calls; never less than nothing."""
        left = (self.amount - total(spent)).most(NOTHING)
        largest = self.largest
        for one in spent:
            largest = largest.most(one)
        return replace(self, amount=left, largest=largest)

    def missing(self) -> Amount:
        """What must be reserved on top, so that another call like the dearest is covered."""
        return (self.largest - self.amount).most(NOTHING)


def reserved_of(stored: Mapping[str, Any]) -> Reservation:
    """What ``Reservation.to_json`` wrote."""
    return Reservation(
        amount_of(stored),
        tuple((str(budget_id), str(starts)) for budget_id, starts in stored.get("of", ())),
        amount_of(stored.get("largest", {})),
    )
