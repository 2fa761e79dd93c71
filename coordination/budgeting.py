"""Budgets by the Python API: set, listed, raised, taken away, and why tasks wait for money.

co.budgets.set("project", "shop", usd="50", period="month")
co.budgets.set("agent", "ann", usd=5, period="day", on_exceed="warn")
for one in co.budgets.list():
    print(one.name, one.period, one.spent.usd, one.left_usd, one.waiting)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Protocol

from sqlalchemy import Connection

from coordination.adapters import price_list
from coordination.base.clock import utc_now
from coordination.base.errors import NotFound, Refused, Unavailable
from coordination.base.ids import is_id
from coordination.base.money import usd
from coordination.base.wording import excerpt
from coordination.domain.money.budget_status import BudgetCheck, BudgetStatus
from coordination.domain.money.budgets import Budget, BudgetPeriod, BudgetScope, BudgetShortage
from coordination.domain.money.caps import caps_of
from coordination.domain.money.pricing import PriceBook, Quote, UnknownPrice
from coordination.domain.projects.projects import Project
from coordination.flows.money.set_budget import amend_budget, check_budget, remove_budget, set_budget
from coordination.raised_budgets import raise_budget
from coordination.runtime import Runtime
from coordination.services.forecast.cost_estimates import estimator
from coordination.services.money import budgets as service
from coordination.services.money import prices
from coordination.store.queries.money import budget_usage, budgets

MOST = 10_000
"""So many budgets are listed, unless more are asked for."""


class Unchanged(Enum):
    """What is not said."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
"""The default of ``Budgets.set``: as it was, or as it is when nobody says anything."""


class _Named(Protocol):
    @property
    def id(self) -> str: ...


class _Connected(Protocol):
    @property
    def runtime(self) -> Runtime: ...

    def project(self, name: str) -> Project: ...

    def run(self, name: str) -> _Named: ...

    def task(self, name: str) -> _Named: ...


class Budgets:
    """The budgets of a connection's workspace. A subject is named as people name it; the workspace has no name."""

    def __init__(self, co: _Connected) -> None:
        self._co = co

    def set(
        self,
        scope: BudgetScope | str,
        subject: str | None = None,
        *,
        usd: Decimal | float | str | Unchanged | None = UNCHANGED,
        tokens: int | Unchanged | None = UNCHANGED,
        starts: int | Unchanged | None = UNCHANGED,
        max_unpriced_calls: int | Unchanged | None = UNCHANGED,
        period: BudgetPeriod | str = BudgetPeriod.TOTAL,
        on_exceed: str | Unchanged = UNCHANGED,
        warn_at: int | Unchanged | None = UNCHANGED,
        downgrade_to: str | Unchanged | None = UNCHANGED,
    ) -> BudgetStatus:
        """Cap what a workspace, project, agent, session, run or task may spend, in all, each day or each month.

        *starts*: how often agents and chats may start. What they end as makes no difference.
        What is not said stays as it is; None takes a cap away. What waits for money is looked at anew at once.
        Raises NotFound for a subject that there is not, Refused for what is no budget and for a cap below what is
        spent already; then nothing has changed.
        """
        said = {
            "usd": usd,
            "tokens": tokens,
            "starts": starts,
            "max_unpriced_calls": max_unpriced_calls,
            "on_exceed": on_exceed,
            "warn_at": warn_at,
            "downgrade_to": downgrade_to,
        }
        which = scope_named(scope)
        when = period_named(period)
        return self._amend(which, self._subject(which, subject, known=True), when, _said(said))

    def _amend(
        self, scope: BudgetScope, subject: str | None, period: BudgetPeriod, said: Mapping[str, Any]
    ) -> BudgetStatus:
        runtime = self._co.runtime
        made = runtime.store.transact(
            lambda tx: amend_budget(
                tx, runtime.workspace_id, said, scope=scope, subject=subject, period=period, actor=runtime.actor
            )
        )
        self._nudge(made)
        return self._stand([made])[0]

    def store_all(self, tx: Connection, project_id: str, caps: Mapping[BudgetPeriod, Mapping[str, Any] | None]) -> None:
        """Give a project these budgets in a larger transaction; None: it has none for that period then."""
        runtime = self._co.runtime
        for period, said in caps.items():
            known = budgets.find(tx, runtime.workspace_id, BudgetScope.PROJECT, project_id, period)
            if said is not None:
                set_budget(
                    tx,
                    runtime.workspace_id,
                    caps_of(said),
                    scope=BudgetScope.PROJECT,
                    subject=project_id,
                    period=period,
                    actor=runtime.actor,
                )
            elif known is not None:
                remove_budget(tx, runtime.workspace_id, known.id)

    def raise_to(
        self,
        subject: str | None,
        cap: Decimal | float | str,
        *,
        scope: BudgetScope | str = BudgetScope.RUN,
        period: BudgetPeriod | str | None = None,
    ) -> BudgetStatus:
        """Give a budget a larger cap in dollars, so that what waits for it goes on: a run's own, or that of a *scope*.

        Without *period* it is the budget in all (``total``), and the only one of the subject. Raises Ambiguous where
        there is one for a period, with the commands; Refused when there is none, or one that is as large already.
        """
        which = scope_named(scope)
        when = None if period is None else period_named(period)
        whose = self._subject(which, subject, known=True)
        made = raise_budget(
            self._co.runtime,
            which,
            subject,
            whose,
            cap=usd(cap),
            period=when,
            instead=lambda: self._elsewhere(whose or ""),
        )
        self._nudge(made)
        return self._stand([made])[0]

    def list(
        self,
        *,
        project: str | None = None,
        run: str | None = None,
        ended: bool = False,
        most: int = MOST,
    ) -> Sequence[BudgetStatus]:
        """How the budgets stand now: of the workspace, or of one project or run and what belongs to it.

        Those of runs that have ended, and of their tasks, only with *ended*.
        """
        runtime = self._co.runtime
        project_id = self._co.project(project).id if project else None
        run_id = self._co.run(run).id if run else None
        with runtime.store.read() as tx:
            found = budgets.listed(
                tx,
                runtime.workspace_id,
                project_id=project_id,
                run_id=run_id,
                unfinished=not ended and run_id is None,
                most=most,
            )
            return _in_order(self._standings(tx, found))

    def of(self, scope: BudgetScope | str, subject: str | None = None) -> Sequence[BudgetStatus]:
        """The budgets that one subject has itself: in all, for the month, for the day."""
        which = scope_named(scope)
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            whose = self._subject(which, subject, known=False) or runtime.workspace_id
            found = budgets.of_subject(tx, runtime.workspace_id, which, whose)
        return self._stand(found)

    def remove(
        self, scope: BudgetScope | str, subject: str | None = None, *, period: BudgetPeriod | str | None = None
    ) -> BudgetStatus:
        """Take a budget away; how it stood. Without *period*: the only one that the subject has.

        What was spent stays in the ledger, and what waited for it goes on. NotFound when there is none.
        """
        found = self.of(scope, subject)
        named = f"{scope} {subject}" if subject else f"{scope}"
        if period is not None:
            wanted = period_named(period)
            found = [one for one in found if one.period is wanted]
        if not found:
            raise NotFound(f"The {named} has no such budget", hint="See: coord budgets list")
        if len(found) > 1:
            periods = ", ".join(one.period for one in found)
            raise Refused(f"The {named} has {len(found)} budgets: {periods}", hint="Say which with the period")
        runtime, budget = self._co.runtime, found[0].budget
        runtime.store.transact(lambda tx: remove_budget(tx, runtime.workspace_id, budget.id))
        self._nudge(budget)
        return found[0]

    def check(self, *, repair: bool = False) -> Sequence[BudgetCheck]:
        """Compare what is kept of every budget's present period with the ledger and the running attempts.

        *repair*: write what these add up to where it differs. Each budget is compared in a transaction of its own.
        """
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            found = budgets.listed(tx, runtime.workspace_id)
            names = budgets.names(tx, runtime.workspace_id, found)
        done = []
        for one in found:
            kept, counted = runtime.store.transact(
                lambda tx, one=one: check_budget(tx, runtime.workspace_id, one, repair=repair)  # type: ignore[misc]
            )
            done.append(BudgetCheck(one, names.get(one.id, one.subject), kept, counted))
            if repair and not done[-1].right:
                self._nudge(one)
        return done

    def lacking(self, *, run: str | None = None, tasks: Collection[str] | None = None) -> dict[str, BudgetShortage]:
        """Why tasks that wait for money do, by task id: of the workspace, of a run's id, or of some tasks' ids.

        One that is not in the answer has its money again, and goes on by itself.
        """
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            return lacking(tx, runtime.workspace_id, run=run, tasks=tasks)

    def held(self, run: str) -> Sequence[BudgetShortage]:
        """What is missing to each task of a run's id that waits for money; nothing when one of them may go on."""
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            found = lacking(tx, runtime.workspace_id, run=run)
            waiting = budget_usage.count_waiting(tx, runtime.workspace_id, run)
        return list(found.values()) if len(found) == waiting else ()

    def _nudge(self, budget: Budget) -> None:
        """Ask for a look at the projects that a budget is about, now."""
        runtime = self._co.runtime
        if budget.project_id is not None:
            runtime.nudge(budget.project_id)
            return
        with runtime.store.read() as tx:
            waiting = budget_usage.projects_waiting(tx, runtime.workspace_id)
        for project_id in waiting:
            runtime.nudge(project_id)

    def _subject(self, scope: BudgetScope, name: str | None, *, known: bool) -> str | None:
        if scope is BudgetScope.WORKSPACE:
            if name is not None:
                raise Refused("The workspace needs no name", hint="coord budgets set workspace --usd 50")
            return None
        if not name:
            raise Refused(f"Say which {scope}", hint=f"coord budgets set {scope} NAME --usd 5")
        match scope:
            case BudgetScope.PROJECT:
                return self._co.project(name).id
            case BudgetScope.RUN:
                return self._co.run(name).id
            case BudgetScope.TASK:
                return self._co.task(name).id
            case BudgetScope.SESSION if known and not is_id(name):
                raise NotFound(f"There is no session {excerpt(name)}", hint="See: coord sessions list")
        return name

    def _stand(self, found: Sequence[Budget]) -> Sequence[BudgetStatus]:
        with self._co.runtime.store.read() as tx:
            return self._standings(tx, found)

    def _standings(self, tx: Connection, found: Sequence[Budget]) -> Sequence[BudgetStatus]:
        workspace_id = self._co.runtime.workspace_id
        return service.standings(tx, workspace_id, found, lacking(tx, workspace_id) if found else {})

    def _elsewhere(self, run_id: str) -> str:
        """What holds a run's tasks, if it is not the run's own budget."""
        for lack in self.lacking(run=run_id).values():
            if not lack.passing:
                return f"What holds it: {lack.sentence()}. {lack.hint()}"
        return f"Give it one: coord budgets set run {run_id} --usd N"


class Budgeted:
    """The part of a run's handle that says what it may spend."""

    __slots__ = ()

    co: _Connected
    id: str

    @property
    def budget(self) -> BudgetStatus | None:
        """How the run's own budget stands: what is spent, reserved and left of it; None when it has none."""
        runtime = self.co.runtime
        with runtime.store.read() as tx:
            found = budgets.get(tx, runtime.workspace_id, BudgetScope.RUN, self.id, BudgetPeriod.TOTAL)
            if found is None:
                return None
            lacks = lacking(tx, runtime.workspace_id, run=self.id)
            return service.standings(tx, runtime.workspace_id, [found], lacks)[0]


def lacking(
    tx: Connection, workspace_id: str, *, run: str | None = None, tasks: Collection[str] | None = None
) -> dict[str, BudgetShortage]:
    """Why tasks that wait for money do, by prices as they are now."""
    guess = current_estimator(tx, workspace_id)
    if tasks is not None:
        return service.shortages(tx, workspace_id, budget_usage.asking(tx, workspace_id, tasks), guess)
    return service.lacking(tx, workspace_id, guess, run_id=run)


def current_estimator(tx: Connection, workspace_id: str) -> service.Estimator:
    """What tasks are expected to cost by prices as they are now."""
    book: list[PriceBook] = []

    def quote(_workspace: str, project_id: str, model: str) -> Quote | UnknownPrice:
        if not book:
            book.append(prices.open_book(tx, workspace_id, price_list.quote))
        try:
            return book[0].quote(model, project_id, utc_now())
        except Unavailable:
            return UnknownPrice("the list of prices cannot be loaded")

    return estimator(quote)


def scope_named(name: BudgetScope | str) -> BudgetScope:
    """The scope of that name; Refused for another."""
    try:
        return BudgetScope(name)
    except ValueError:
        raise Refused(
            f"There are no budgets of a {excerpt(str(name))}", hint=f"Of: {', '.join(BudgetScope)}", field="scope"
        ) from None


def period_named(name: BudgetPeriod | str) -> BudgetPeriod:
    """The period of that name; Refused for another."""
    try:
        return BudgetPeriod(name)
    except ValueError:
        raise Refused(
            f"A budget's period is {', '.join(BudgetPeriod)}, not {excerpt(str(name))}",
            hint="total never begins anew",
            field="period",
        ) from None


def _said(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of it. A cheaper model alone says enough: that it is to be used."""
    found = {name: value for name, value in said.items() if value is not UNCHANGED}
    if found.get("downgrade_to") is not None and "on_exceed" not in found:
        found["on_exceed"] = "downgrade"
    return found


def _in_order(found: Sequence[BudgetStatus]) -> Sequence[BudgetStatus]:
    """The widest first, in each scope as they were set."""
    order = list(BudgetScope)
    return sorted(found, key=lambda one: (order.index(one.scope), one.name if one.scope is not BudgetScope.RUN else ""))
