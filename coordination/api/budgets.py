"""Budgets in the Python API: set, list, raise, remove and check them; why tasks wait for money.

co.budgets.set("project", "shop", usd="50", period="month")
co.budgets.set("agent", "ann", usd=5, period="day", on_exceed="warn")
for one in co.budgets.list():
    print(one.name, one.period, one.spent.usd, one.left_usd, one.waiting)
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from sqlalchemy import Connection

from coordination.adapters import price_list
from coordination.api.names import find_project, find_run, find_task
from coordination.base.clock import utc_now
from coordination.base.errors import Ambiguous, NotFound, Refused, Unavailable
from coordination.base.ids import is_id
from coordination.base.money import show_usd, usd
from coordination.base.wording import excerpt
from coordination.domain.money.budget_status import BudgetCheck, BudgetStatus
from coordination.domain.money.budgets import Budget, BudgetPeriod, BudgetScope, BudgetShortage
from coordination.domain.money.caps import parse_caps
from coordination.domain.money.pricing import PriceBook, Quote, UnknownPrice
from coordination.flows.money.set_budget import amend_budget, check_budget, remove_budget, set_budget
from coordination.runtime import Runtime
from coordination.services.forecast.cost_estimates import make_estimator
from coordination.services.money import budgets as service
from coordination.services.money import prices
from coordination.store.queries.money import budgets

MOST = 10_000
"""The default maximum number of listed budgets."""


class Unchanged(Enum):
    """The type of the default for omitted arguments."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
"""The default of arguments of ``Budgets.set``: leave the value as it is."""


class Budgets:
    """The budgets of a workspace: ``co.budgets``. Subjects have names as in commands; the workspace has none."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

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
        """Set or change the budget of a workspace, project, agent, session, run or task: total, each day or each month.

        *starts*: how often agents and chats may start, whatever their result. Arguments that are not given change
        nothing; None removes a cap. Tasks that wait for money are checked again at once. Raises NotFound for an unknown
        subject, and Refused for an invalid budget or a cap below what is spent; then nothing has changed.
        """
        fields = {
            "usd": usd,
            "tokens": tokens,
            "starts": starts,
            "max_unpriced_calls": max_unpriced_calls,
            "on_exceed": on_exceed,
            "warn_at": warn_at,
            "downgrade_to": downgrade_to,
        }
        which, when = parse_scope(scope), parse_period(period)
        whose = self._subject(which, subject, must_exist=True)
        changes, actor = _changes(fields), self._runtime.actor
        return self._changed(
            self._runtime.transact(amend_budget, changes, scope=which, subject=whose, period=when, actor=actor)
        )

    def raise_to(
        self,
        subject: str | None,
        cap: Decimal | float | str,
        *,
        scope: BudgetScope | str = BudgetScope.RUN,
        period: BudgetPeriod | str | None = None,
    ) -> BudgetStatus:
        """Raise the cap of a budget in dollars, a run's or that of a *scope*, so that waiting tasks can start.

        Without *period* it is the budget in all (``total``), if it is the subject's only one. Raises Ambiguous with the
        commands where there are others, and Refused when there is none or its cap is as large already.
        """
        which = parse_scope(scope)
        when = None if period is None else parse_period(period)
        whose = self._subject(which, subject, must_exist=True)
        budget = self._runtime.transact(
            _raise_cap, which, subject, whose, cap=usd(cap), period=when, actor=self._runtime.actor
        )
        if budget is None:
            of = "" if when in (None, BudgetPeriod.TOTAL) else f" of the {when}"
            hint = self._hint_without_budget(which, subject, whose)
            raise Refused(f"The {which}{f' {subject}' if subject else ''} has no budget in dollars{of}", hint=hint)
        return self._changed(budget)

    def list(
        self, *, project: str | None = None, run: str | None = None, ended: bool = False, most: int = MOST
    ) -> Sequence[BudgetStatus]:
        """Return the budgets with their present status: all, or those of a project or run and what belongs to it.

        *ended*: include those of ended runs and their tasks.
        """
        runtime = self._runtime
        project_id = find_project(runtime, project).id if project else None
        run_id = find_run(runtime, run) if run else None
        unfinished = not ended and run_id is None
        with runtime.store.read() as tx:  # one transaction, so that a budget and its status belong together
            records = budgets.list_budgets(
                tx, runtime.workspace_id, project_id=project_id, run_id=run_id, unfinished=unfinished, most=most
            )
            return _in_order(_read_statuses(tx, runtime.workspace_id, records))

    def of(self, scope: BudgetScope | str, subject: str | None = None) -> Sequence[BudgetStatus]:
        """Return the subject's own budgets: total, month and day."""
        which = parse_scope(scope)
        whose = self._subject(which, subject, must_exist=False) or self._runtime.workspace_id
        return self._statuses(self._runtime.read(budgets.of_subject, which, whose))

    def remove(
        self, scope: BudgetScope | str, subject: str | None = None, *, period: BudgetPeriod | str | None = None
    ) -> BudgetStatus:
        """Remove a budget and return its last status. Without *period*: the only one of the subject.

        Costs stay in the ledger, and tasks that waited for it can start. Raises NotFound when there is none.
        """
        candidates = self.of(scope, subject)
        named = f"{scope} {subject}" if subject else f"{scope}"
        if period is not None:
            candidates = [status for status in candidates if status.period is parse_period(period)]
        if not candidates:
            raise NotFound(f"The {named} has no such budget", hint="See: coord budgets list")
        if len(candidates) > 1:
            periods = ", ".join(status.period for status in candidates)
            raise Refused(f"The {named} has {len(candidates)} budgets: {periods}", hint="Give the period")
        budget = candidates[0].budget
        self._runtime.transact(remove_budget, budget.id)
        self._wake(budget)
        return candidates[0]

    def check(self, *, repair: bool = False) -> Sequence[BudgetCheck]:
        """Compare the counters of every budget's present period with the ledger and the running attempts.

        *repair*: correct counters that differ. Each budget is compared in a transaction of its own.
        """
        runtime = self._runtime
        with runtime.store.read() as tx:
            records = budgets.list_budgets(tx, runtime.workspace_id)
            names = budgets.read_names(tx, runtime.workspace_id, records)
        checks = []
        for budget in records:
            kept, counted = runtime.transact(check_budget, budget, repair=repair)
            checks.append(BudgetCheck(budget, names.get(budget.id, budget.subject), kept, counted))
            if repair and not checks[-1].right:
                self._wake(budget)
        return checks

    def lacking(self, *, run: str | None = None, tasks: Collection[str] | None = None) -> dict[str, BudgetShortage]:
        """Return why tasks wait for money, by task id: of the workspace, of a run's id, or of some tasks' ids.

        A waiting task that is missing in the result starts at the next tick.
        """
        return self._runtime.read(lacking, run=run, tasks=tasks)

    def shortages(self, run: str) -> Sequence[BudgetShortage]:
        """Return what each waiting task of a run's id lacks; nothing when one of them can start."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            lacks = lacking(tx, runtime.workspace_id, run=run)
            waiting = budgets.count_waiting_tasks(tx, runtime.workspace_id, run)
        return list(lacks.values()) if len(lacks) == waiting else ()

    def _changed(self, budget: Budget) -> BudgetStatus:
        self._wake(budget)
        return self._statuses([budget])[0]

    def _wake(self, budget: Budget) -> None:
        """Trigger a tick of the projects of a budget."""
        runtime = self._runtime
        if budget.project_id is not None:
            runtime.wake_project(budget.project_id)
            return
        for project_id in runtime.read(budgets.list_waiting_projects):
            runtime.wake_project(project_id)

    def _subject(self, scope: BudgetScope, name: str | None, *, must_exist: bool) -> str | None:
        if scope is BudgetScope.WORKSPACE:
            if name is not None:
                raise Refused("The workspace has no name", hint="coord budgets set workspace --usd 50")
            return None
        if not name:
            raise Refused(f"Give the name of the {scope}", hint=f"coord budgets set {scope} NAME --usd 5")
        match scope:
            case BudgetScope.PROJECT:
                return find_project(self._runtime, name).id
            case BudgetScope.RUN:
                return find_run(self._runtime, name)
            case BudgetScope.TASK:
                return find_task(self._runtime, name).id
            case BudgetScope.SESSION if must_exist and not is_id(name):
                raise NotFound(f"There is no session {excerpt(name)}", hint="See: coord sessions list")
        return name

    def _statuses(self, records: Sequence[Budget]) -> Sequence[BudgetStatus]:
        return self._runtime.read(_read_statuses, records)

    def _hint_without_budget(self, scope: BudgetScope, name: str | None, subject: str | None) -> str:
        """Return the other budget that holds a run's tasks, or the command that gives the subject one."""
        if scope is not BudgetScope.RUN:
            return f"Give it one: coord budgets set {_in_shell(scope, name)} --usd N"
        for lack in self.lacking(run=subject).values():
            if not lack.passing:
                return f"It is held by: {lack.sentence()}. {lack.hint()}"
        return f"Give it one: coord budgets set run {subject} --usd N"


def _raise_cap(
    tx: Connection,
    workspace_id: str,
    scope: BudgetScope,
    name: str | None,
    subject: str | None,
    *,
    cap: Decimal,
    period: BudgetPeriod | None,
    actor: str,
) -> Budget | None:
    """Raise the cap in dollars of a budget of *subject*, whose name is *name*; return None when there is none.

    *period* None: the total one, if it is the only one. Raises Ambiguous with the commands if a budget has a period,
    and Refused if the cap does not grow.
    """
    whose = subject or workspace_id
    all_budgets = budgets.of_subject(tx, workspace_id, scope, whose)
    candidates = [budget for budget in all_budgets if budget.usd is not None and period in (None, budget.period)]
    if not candidates:
        return None
    if period is None and (len(candidates) > 1 or candidates[0].period is not BudgetPeriod.TOTAL):
        amounts = (f"{budget.period} ({show_usd(budget.usd)})" for budget in candidates if budget.usd is not None)
        raise Ambiguous(
            f"The {scope}{f' {name}' if name else ''} has budgets by period: {', '.join(amounts)}",
            hint="Choose the budget:",
            field="period",
            commands=[raise_command(scope, name, cap, budget.period) for budget in candidates],
        )
    which = candidates[0].period
    present = budgets.lock_budget(tx, workspace_id, scope, whose, which)
    if present is None or present.usd is None:
        return None
    if cap <= present.usd:
        of_period = "" if which is BudgetPeriod.TOTAL else f" --period {which}"
        lower = f"To lower it: coord budgets set {_in_shell(scope, name)} --usd {cap:f}{of_period}"
        raise Refused(
            f"The {scope}'s budget is {show_usd(present.usd)} already: {show_usd(cap)} does not raise it",
            hint=lower if cap < present.usd else None,
        )
    return amend_budget(tx, workspace_id, {"usd": cap}, scope=scope, subject=subject, period=which, actor=actor)


def raise_command(scope: BudgetScope | str, name: str | None, cap: Decimal, period: BudgetPeriod) -> str:
    """Return the command that raises a budget to *cap*."""
    return f"coord budgets raise {_in_shell(scope, name)} {cap:f} --period {period}"


def _in_shell(scope: BudgetScope | str, name: str | None) -> str:
    """Return the arguments that name a subject in a command."""
    return f"{scope} {shlex.quote(name)}" if name else f"{scope}"


def budget_of_run(runtime: Runtime, run_id: str) -> BudgetStatus | None:
    """Return the status of a run's own budget; None when it has none."""
    with runtime.store.read() as tx:
        budget = budgets.get(tx, runtime.workspace_id, BudgetScope.RUN, run_id, BudgetPeriod.TOTAL)
        if budget is None:
            return None
        lacks = lacking(tx, runtime.workspace_id, run=run_id)
        return service.read_statuses(tx, runtime.workspace_id, [budget], lacks)[0]


def replace_project_budgets(
    tx: Connection, runtime: Runtime, project_id: str, caps: Mapping[BudgetPeriod, Mapping[str, Any] | None]
) -> None:
    """Set a project's budgets by period, in a larger transaction; None removes the one of that period."""
    for period, fields in caps.items():
        present = budgets.lock_budget(tx, runtime.workspace_id, BudgetScope.PROJECT, project_id, period)
        if fields is not None:
            set_budget(
                tx,
                runtime.workspace_id,
                parse_caps(fields),
                scope=BudgetScope.PROJECT,
                subject=project_id,
                period=period,
                actor=runtime.actor,
            )
        elif present is not None:
            remove_budget(tx, runtime.workspace_id, present.id)


def lacking(
    tx: Connection, workspace_id: str, *, run: str | None = None, tasks: Collection[str] | None = None
) -> dict[str, BudgetShortage]:
    """Return why tasks wait for money, at present prices."""
    estimate = current_estimator(tx, workspace_id)
    if tasks is not None:
        return service.find_shortages(tx, workspace_id, budgets.find_waiting_tasks(tx, workspace_id, tasks), estimate)
    return service.find_waiting_shortages(tx, workspace_id, estimate, run_id=run)


def current_estimator(tx: Connection, workspace_id: str) -> service.Estimator:
    """Return an estimator that uses present prices, which it loads at the first use."""
    book: list[PriceBook] = []

    def quote(_workspace: str, project_id: str, model: str) -> Quote | UnknownPrice:
        if not book:
            book.append(prices.open_book(tx, workspace_id, price_list.quote))
        try:
            return book[0].quote(model, project_id, utc_now())
        except Unavailable:
            return UnknownPrice("the price list cannot be loaded")

    return make_estimator(quote)


def parse_scope(name: BudgetScope | str) -> BudgetScope:
    """Return the scope of that name. Raises Refused for another."""
    try:
        return BudgetScope(name)
    except ValueError:
        raise Refused(
            f"{excerpt(str(name))} is not a scope of budgets", hint=f"One of: {', '.join(BudgetScope)}", field="scope"
        ) from None


def parse_period(name: BudgetPeriod | str) -> BudgetPeriod:
    """Return the period of that name. Raises Refused for another."""
    try:
        return BudgetPeriod(name)
    except ValueError:
        raise Refused(
            f"A budget's period is {', '.join(BudgetPeriod)}, not {excerpt(str(name))}",
            hint="total never starts again",
            field="period",
        ) from None


def _changes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that were passed. A cheaper model without on_exceed implies ``downgrade``."""
    present = {name: value for name, value in fields.items() if value is not UNCHANGED}
    if present.get("downgrade_to") is not None and "on_exceed" not in present:
        present["on_exceed"] = "downgrade"
    return present


def _read_statuses(tx: Connection, workspace_id: str, records: Sequence[Budget]) -> Sequence[BudgetStatus]:
    return service.read_statuses(tx, workspace_id, records, lacking(tx, workspace_id) if records else {})


def _in_order(statuses: Sequence[BudgetStatus]) -> Sequence[BudgetStatus]:
    """Sort by scope, the widest first."""
    order = list(BudgetScope)
    return sorted(statuses, key=lambda each: (order.index(each.scope), "" if each.scope == "run" else each.name))
