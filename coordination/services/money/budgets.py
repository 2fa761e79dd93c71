"""Rules of budgets within a transaction: set caps, reserve money for claims, find tasks that fit or that must wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from coordination.base.errors import Refused
from coordination.base.money import minus, plus, show_usd, usd
from coordination.domain.jobs import job_class
from coordination.domain.money.budget_events import budget_events, mark_thresholds
from coordination.domain.money.budget_status import BudgetStatus
from coordination.domain.money.budgets import (
    NEEDS,
    NOTHING,
    Amount,
    Budget,
    BudgetPeriod,
    BudgetScope,
    BudgetShortage,
    BudgetUse,
    ExceededAction,
    Reservation,
    budget_subjects,
    find_shortage,
    is_warning_due,
    period_start,
    read_amount,
)
from coordination.domain.money.estimates import Estimate, asks_a_model
from coordination.domain.projects.model_policy import parse_restrictions, refusal
from coordination.domain.tasks.events import NewEvent
from coordination.store.queries.money import budgets
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import events
from coordination.store.types import db_now

Row = Mapping[str, Any]
"""A task: id, workspace_id, project_id, run_id, session_id, agent_id, work, options, carried."""

Key = tuple[str, str]
"""The id of a budget and the first day of a period."""

Estimator = Callable[[Connection, Sequence[Row]], Mapping[str, Estimate]]
"""Returns the estimated cost of each task, by its id."""

_BATCH = 500
_MOST_WAITING = 10_000
_MOST_RUNS = 500

ASSUMED = usd("1.00")
"""Dollars that are reserved for a job whose cost is unknown, or the rest of a cap if that is less."""


@dataclass(slots=True)
class ReservationResult:
    """The reservations and shortages of tasks, by task id. ``models``: the cheaper models that some must use.

    ``skipped``: tasks with a budget that another transaction had locked.
    """

    reserved: dict[str, Reservation] = field(default_factory=dict)
    refused: dict[str, BudgetShortage] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)


def reserve(
    tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator, *, wait: bool = True
) -> ReservationResult:
    """Reserve the estimated costs of these locked tasks in all budgets that apply, in the order of *rows*.

    The result does not contain tasks without a budget. Without *wait*, tasks with budgets that others have locked are
    skipped.
    """
    applicable = _TaskBudgets(tx, workspace_id, rows, estimator)
    result = ReservationResult()
    start_budgets: dict[Key, tuple[Budget, str]] = {}
    if not applicable.by_subject:
        return result
    keys = applicable.keys()
    uses = (
        budgets.lock_uses(tx, workspace_id, keys, create=keys)
        if wait
        else budgets.lock_available_uses(tx, workspace_id, keys)
    )
    for row in rows:
        mine = [(key, budget) for key, budget in applicable.of(row) if key in uses]
        if not wait and len(mine) < len(applicable.of(row)):
            result.skipped.add(row["id"])
            continue
        if not mine:
            continue
        model, amount, shortage = applicable.assess(row, mine, uses)
        if shortage is not None:
            result.refused[row["id"]] = shortage
            continue
        if model is not None:
            result.models[row["id"]] = model
        for key, _ in mine:
            uses[key] = uses[key].with_claim(amount)
        result.reserved[row["id"]] = Reservation(amount, tuple(key for key, _ in mine))
        if amount.starts:
            start_budgets |= {key: (budget, row["project_id"]) for key, budget in mine if budget.max_starts is not None}
    if result.reserved:
        new_events = _mark_starts(start_budgets, uses)
        budgets.write_uses(tx, workspace_id, uses.values())
        events.append(tx, workspace_id, new_events)
    return result


def _mark_starts(start_budgets: Mapping[Key, tuple[Budget, str]], uses: dict[Key, BudgetUse]) -> list[NewEvent]:
    """Mark in *uses* which budgets of starts reach a threshold by these claims, and return their events."""
    new_events: list[NewEvent] = []
    for key, (budget, project_id) in start_budgets.items():
        uses[key], types = mark_thresholds(budget, uses[key])
        new_events += budget_events(budget, uses[key], types, project_id)
    return new_events


def find_affordable(tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator) -> list[str]:
    """Return the ids of the waiting tasks that would fit now, one after the other, without reservations or locks."""
    applicable = _TaskBudgets(tx, workspace_id, rows, estimator)
    uses = applicable.read_uses()
    fitting = []
    for row in rows:
        mine = applicable.of(row)
        _, amount, shortage = applicable.assess(row, mine, uses)
        if shortage is None:
            fitting.append(row["id"])
            for key, _ in mine:
                uses[key] = uses[key].with_claim(amount)
    return fitting


def find_shortages(
    tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator
) -> dict[str, BudgetShortage]:
    """Return what each of these tasks lacks now, for those that do not fit."""
    applicable = _TaskBudgets(tx, workspace_id, rows, estimator)
    uses = applicable.read_uses()
    lacks = {row["id"]: applicable.assess(row, applicable.of(row), uses)[2] for row in rows}
    return {task_id: shortage for task_id, shortage in lacks.items() if shortage is not None}


def find_waiting_shortages(
    tx: Connection, workspace_id: str, estimator: Estimator, *, run_id: str | None = None
) -> dict[str, BudgetShortage]:
    """Return what each task lacks that waits for money, in one run or the whole workspace."""
    lacks: dict[str, BudgetShortage] = {}
    waiting = budgets.list_waiting_projects_and_runs(tx, workspace_id, run_id=run_id, most=_MOST_RUNS)
    for project_id, each in waiting:
        rows = budgets.list_waiting_tasks(tx, workspace_id, project_id, each, most=_MOST_WAITING)
        for start in range(0, len(rows), _BATCH):
            lacks |= find_shortages(tx, workspace_id, rows[start : start + _BATCH], estimator)
    return lacks


def read_statuses(
    tx: Connection, workspace_id: str, records: Sequence[Budget], lacks: Mapping[str, BudgetShortage]
) -> list[BudgetStatus]:
    """Return the present status of these budgets. *lacks*: the result of ``find_waiting_shortages``."""
    if not records:
        return []
    now = tx.execute(select(db_now())).scalar_one()
    zone = ZoneInfo(budgets.read_zone(tx, workspace_id) or "UTC")
    keys = [(budget.id, period_start(budget.period, now, zone)) for budget in records]
    uses = budgets.read_uses(tx, workspace_id, keys)
    names = budgets.read_names(tx, workspace_id, records)
    waiting = Counter(lack.budget.id for lack in lacks.values())
    return [
        BudgetStatus(budget, names.get(budget.id, budget.subject), uses.get(key, BudgetUse(*key)), waiting[budget.id])
        for budget, key in zip(records, keys, strict=True)
    ]


class _TaskBudgets:
    """Tasks with the budgets that apply to them and their estimated costs."""

    def __init__(self, tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator) -> None:
        self._tx = tx
        self._workspace = workspace_id
        self._rows = rows
        self._estimator = estimator
        subjects = {each for row in rows for each in self._subjects(row)}
        self.by_subject: dict[tuple[BudgetScope, str], list[Budget]] = {}
        self._keys: dict[str, Key] = {}
        self._shared: dict[tuple[Any, ...], list[tuple[Key, Budget]]] = {}  # without the tasks' own
        self._rules: dict[str, Mapping[str, Any]] = {}
        applicable = budgets.find_applicable(tx, workspace_id, {subject for _, subject in subjects})
        for budget in applicable.budgets:
            if (budget.scope, budget.subject) in subjects:
                self.by_subject.setdefault((budget.scope, budget.subject), []).append(budget)
        if not self.by_subject:
            return
        assert applicable.now is not None  # noqa: S101 - it comes with the budgets
        now, zone = applicable.now, applicable.zone
        self._keys = {cap.id: (cap.id, period_start(cap.period, now, zone)) for cap in applicable.budgets}
        self._estimates = estimator(tx, rows)

    def _subjects(self, row: Row) -> list[tuple[BudgetScope, str]]:
        return budget_subjects(self._workspace, row["id"], row)

    def of(self, row: Row) -> list[tuple[Key, Budget]]:
        """Return the budgets that apply to a task, each with the key of its present period."""
        group = (row["project_id"], row["agent_id"], row["session_id"], row["run_id"])
        own = self.by_subject.get((BudgetScope.TASK, row["id"]), ())
        if group not in self._shared:
            subjects = [each for each in self._subjects(row) if each[0] is not BudgetScope.TASK]
            every = [budget for each in subjects for budget in self.by_subject.get(each, ())]
            self._shared[group] = [(self._keys[budget.id], budget) for budget in every]
        return [*self._shared[group], *((self._keys[budget.id], budget) for budget in own)]

    def keys(self) -> set[Key]:
        """Return the keys of all present periods."""
        return {self._keys[budget.id] for group in self.by_subject.values() for budget in group}

    def read_uses(self) -> dict[Key, BudgetUse]:
        """Return the use of all present periods, without locks."""
        keys = self.keys()
        return {key: BudgetUse(*key) for key in keys} | budgets.read_uses(self._tx, self._workspace, keys)

    def assess(
        self, row: Row, mine: Sequence[tuple[Key, Budget]], uses: Mapping[Key, BudgetUse]
    ) -> tuple[str | None, Amount, BudgetShortage | None]:
        """Return the cheaper model that the task must use, the amount to reserve, and what it lacks, if anything."""
        if not mine:
            return None, NOTHING, None
        amount = self._required(row, self._estimates[row["id"]], mine, uses)
        model = self._cheaper(row, amount, mine, uses)
        if model is not None:
            cheaper = {**row, "work": with_model(row["work"], model)}
            amount = self._required(row, self._estimator(self._tx, [cheaper])[row["id"]], mine, uses)
        lacks = [lack for key, budget in mine if budget.holds and (lack := find_shortage(budget, uses[key], amount))]
        # A shortage that only a person can fix is reported before one that passes.
        return model, amount, min(lacks, key=lambda lack: lack.passing, default=None)

    def _required(
        self, row: Row, estimate: Estimate, mine: Sequence[tuple[Key, Budget]], uses: Mapping[Key, BudgetUse]
    ) -> Amount:
        dollars, tokens = estimate.usd, estimate.tokens
        if estimate.source == "unknown":
            # At most the rest of a cap, or a lost or postponed job could wait forever below half of the cap.
            rests = [
                plus(cap.usd, minus(uses[key].spent.usd)) for key, cap in mine if cap.usd is not None and cap.holds
            ]
            dollars = max(dollars, min([ASSUMED, *(each for each in rests if each > 0)]))
        for key, budget in mine:
            # A task is stopped at its own cap, so it cannot cost more than the rest of that.
            if budget.scope is BudgetScope.TASK and budget.holds:
                spent = uses[key].spent
                if budget.usd is not None and budget.usd > spent.usd:
                    dollars = min(dollars, plus(budget.usd, minus(spent.usd)))
                if budget.tokens is not None and budget.tokens > spent.tokens:
                    tokens = min(tokens, budget.tokens - spent.tokens)
        needs = read_amount((row["carried"] or {}).get(NEEDS) or {})
        return Amount(dollars, tokens, estimate.unpriced, int(asks_a_model(row["work"]))).max_with(needs)

    def _cheaper(
        self, row: Row, amount: Amount, mine: Sequence[tuple[Key, Budget]], uses: Mapping[Key, BudgetUse]
    ) -> str | None:
        for key, budget in mine:
            if budget.action is not ExceededAction.DOWNGRADE or budget.downgrade_to is None:
                continue
            if not asks_a_model(row["work"]) or row["work"] == with_model(row["work"], budget.downgrade_to):
                continue
            due = is_warning_due(budget, uses[key].committed + amount) or find_shortage(budget, uses[key], amount)
            if due and self._allows(row, budget.downgrade_to):
                return budget.downgrade_to
        return None

    def _allows(self, row: Row, model: str) -> bool:
        """Return whether the project allows the model; otherwise the job keeps its more expensive one."""
        project_id = row["project_id"]
        if project_id not in self._rules:
            project = projects.get(self._tx, self._workspace, project_id)
            self._rules[project_id] = {} if project is None else project.model_restrictions
        try:
            rules = parse_restrictions(self._rules[project_id])
        except Refused:
            return False
        return rules is None or refusal(with_model(row["work"], model), rules, rendered=True) is None


def named_model(work: Mapping[str, Any]) -> str | None:
    """Return the model that a job names; a chat's includes the provider, as in the plan."""
    return job_class(work).qualified_model_in(work)


def with_model(work: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the job with another model; a chat keeps its provider if the model names none."""
    return job_class(work).with_model(work, model)


def set_cap(tx: Connection, workspace_id: str, budget: Budget) -> Budget:
    """Create or change a budget; what was spent in its period so far counts.

    Raises Refused for a cap below what is spent already.
    """
    previous = budgets.lock_budget(tx, workspace_id, budget.scope, budget.subject, budget.period)
    budget = replace(budget, id=budgets.put(tx, workspace_id, budget))
    use = recount(tx, workspace_id, budget)
    for what, cap, spent in (
        ("dollars", budget.usd, use.spent.usd),
        ("tokens", budget.tokens, use.spent.tokens),
        ("starts", budget.max_starts, use.spent.starts),
    ):
        if cap is not None and spent > cap:
            amount = show_usd(spent) if isinstance(spent, Decimal) else f"{spent:,} {what}"
            kept = "" if previous is None else f"; it stays at {previous.describe_caps()}"
            raise Refused(
                f"{amount} are spent of {budget.title()} already: {budget.describe_caps()} is a lower cap{kept}",
                hint="Set a higher cap, or pause the project: coord projects pause",
            )
    return budget


def recount(tx: Connection, workspace_id: str, budget: Budget) -> BudgetUse:
    """Recompute the use of the present period from the ledger and the attempts, store and return it.

    Starts stay counted after retention has deleted their attempts.
    """
    use, counted, reserved = _recompute(tx, workspace_id, budget, create=True)
    budgets.write_reservations(tx, workspace_id, reserved)
    if (use.spent, use.reserved) != (counted.spent, counted.reserved) or use.warned or use.reached:
        budgets.write_uses(tx, workspace_id, [counted])
    return counted


def compare(tx: Connection, workspace_id: str, budget: Budget) -> tuple[BudgetUse, BudgetUse]:
    """Return the stored use of the present period and the one that ``recount`` would store. Only locks."""
    use, counted, _ = _recompute(tx, workspace_id, budget, create=False)
    return use, counted


def _recompute(
    tx: Connection, workspace_id: str, budget: Budget, *, create: bool
) -> tuple[BudgetUse, BudgetUse, dict[tuple[str, int], Reservation]]:
    """Return the stored use, the recomputed one, and the reservations of running attempts that lack this budget."""
    starts, begins = current_period(tx, workspace_id, budget)
    key = (budget.id, starts)
    running = budgets.lock_running_attempts(tx, workspace_id, budget.scope, budget.subject)
    uses = budgets.lock_uses(tx, workspace_id, [key], create=[key] if create else ())
    use = uses.get(key, BudgetUse(*key))
    reserved: dict[tuple[str, int], Reservation] = {}
    total = NOTHING
    for attempt in running:
        kept = attempt.reserved or Reservation()
        if attempt.reserved is None and not attempt.paid:
            continue
        if key not in kept.of:
            if begins is not None and attempt.started_at < begins:
                continue
            # Includes the start, so that it is released if the job turns out never to have started.
            amount = kept.amount.max_with(Amount(starts=int(attempt.paid)))
            reserved[attempt.task_id, attempt.number] = replace(kept, amount=amount, of=(*kept.of, key))
        total += kept.amount.without_starts()
    spent = budgets.sum_spent(tx, workspace_id, budget.scope, budget.subject, since=begins)
    counted_starts = budgets.count_starts(tx, workspace_id, budget.scope, budget.subject, since=begins)
    spent = replace(spent, starts=max(counted_starts, use.spent.starts))
    return use, BudgetUse(budget.id, starts, spent, total), reserved


def current_period(tx: Connection, workspace_id: str, budget: Budget) -> tuple[str, datetime | None]:
    """Return the first day of the budget's present period and the moment when it began; None for a total."""
    if budget.period is BudgetPeriod.TOTAL:
        return "", None
    zone = ZoneInfo(budgets.read_zone(tx, workspace_id) or "UTC")
    starts = period_start(budget.period, tx.execute(select(db_now())).scalar_one(), zone)
    return starts, datetime.fromisoformat(starts).replace(tzinfo=zone)
