"""Budgets: set by people, reserved of by claims, watched for room when tasks wait for money."""

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
from coordination.domain.money.budget_events import events_of, noticed
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
    amount_of,
    due_to_warn,
    short,
    starts_of,
    subjects_of,
)
from coordination.domain.money.estimates import Estimate, asks_a_model
from coordination.domain.projects.model_policy import parse_restrictions, refusal
from coordination.domain.tasks.events import NewEvent
from coordination.store.queries.money import budget_usage, budgets
from coordination.store.queries.money import starts as starts_counted
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import events
from coordination.store.types import db_now

Row = Mapping[str, Any]
"""What budgets ask of a task: id, workspace_id, project_id, run_id, session_id, agent_id, work, options, carried."""

Key = tuple[str, str]
"""A budget and the first day of a period of it."""

Estimator = Callable[[Connection, Sequence[Row]], Mapping[str, Estimate]]
"""What each task is expected to cost, by its id."""

_BATCH = 500
_MOST_WAITING = 10_000
_MOST_RUNS = 500

ASSUMED = usd("1.00")
"""Dollars reserved for a job of an agent or a model of which nothing is known; less where less is left of a cap."""


@dataclass(slots=True)
class BudgetChoice:
    """What became of tasks that asked for money. ``models``: the cheaper ones that some are to use.

    ``left``: those whose budgets somebody else had locked.
    """

    reserved: dict[str, Reservation] = field(default_factory=dict)
    refused: dict[str, BudgetShortage] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)


def reserve(
    tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator, *, wait: bool = True
) -> BudgetChoice:
    """Reserve what these locked tasks are expected to cost of every budget that applies, best first.

    A task to which none applies is in no part of the answer. Without *wait*, budgets that others have locked are not
    waited for.
    """
    desk = _Desk(tx, workspace_id, rows, estimator)
    chosen = BudgetChoice()
    counting: dict[Key, tuple[Budget, str]] = {}
    if not desk.found:
        return chosen
    keys = desk.keys()
    uses = (
        budget_usage.lock_uses(tx, workspace_id, keys, make=keys)
        if wait
        else budget_usage.lock_free_uses(tx, workspace_id, keys)
    )
    for row in rows:
        mine = [(key, budget) for key, budget in desk.of(row) if key in uses]
        if not wait and len(mine) < len(desk.of(row)):
            chosen.left.add(row["id"])
            continue
        if not mine:
            continue
        model, wanted, lack = desk.judged(row, mine, uses)
        if lack is not None:
            chosen.refused[row["id"]] = lack
            continue
        if model is not None:
            chosen.models[row["id"]] = model
        for key, _ in mine:
            uses[key] = uses[key].reserving(wanted)
        chosen.reserved[row["id"]] = Reservation(wanted, tuple(key for key, _ in mine))
        if wanted.starts:
            counting |= {key: (budget, row["project_id"]) for key, budget in mine if budget.max_starts is not None}
    if chosen.reserved:
        told = _noticed(counting, uses)
        budget_usage.write_uses(tx, workspace_id, uses.values())
        events.append(tx, workspace_id, told)
    return chosen


def _noticed(counting: Mapping[Key, tuple[Budget, str]], uses: dict[Key, BudgetUse]) -> list[NewEvent]:
    """Note in *uses* which budgets of starts have come to their warning or their end with these claims; the events.

    *counting*: these budgets, each with the project of a task that was claimed.
    """
    told: list[NewEvent] = []
    for key, (budget, project_id) in counting.items():
        uses[key], types = noticed(budget, uses[key])
        told += events_of(budget, uses[key], types, project_id)
    return told


def affordable(tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator) -> list[str]:
    """Those of these waiting tasks that would fit now, one after the other; nothing is reserved, nothing locked."""
    desk = _Desk(tx, workspace_id, rows, estimator)
    uses = budget_usage.uses(tx, workspace_id, desk.keys())
    fitting = []
    for row in rows:
        mine = list(desk.of(row))
        for (budget_id, starts), _ in mine:
            uses.setdefault((budget_id, starts), BudgetUse(budget_id, starts))
        _, wanted, lack = desk.judged(row, mine, uses)
        if lack is None:
            fitting.append(row["id"])
            for key, _ in mine:
                uses[key] = uses[key].reserving(wanted)
    return fitting


def shortages(
    tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator
) -> dict[str, BudgetShortage]:
    """Why each of these tasks would not fit now, for those that would not."""
    desk = _Desk(tx, workspace_id, rows, estimator)
    uses = budget_usage.uses(tx, workspace_id, desk.keys())
    found = {}
    for row in rows:
        mine = list(desk.of(row))
        for (budget_id, starts), _ in mine:
            uses.setdefault((budget_id, starts), BudgetUse(budget_id, starts))
        if (lack := desk.judged(row, mine, uses)[2]) is not None:
            found[row["id"]] = lack
    return found


def lacking(
    tx: Connection, workspace_id: str, estimator: Estimator, *, run_id: str | None = None
) -> dict[str, BudgetShortage]:
    """Why each task that waits for money would not fit now, of one run or of the whole workspace."""
    found: dict[str, BudgetShortage] = {}
    for project_id, each in budget_usage.places_waiting(tx, workspace_id, run_id=run_id, most=_MOST_RUNS):
        rows = budget_usage.waiting(tx, workspace_id, project_id, each, most=_MOST_WAITING)
        for start in range(0, len(rows), _BATCH):
            found |= shortages(tx, workspace_id, rows[start : start + _BATCH], estimator)
    return found


def standings(
    tx: Connection, workspace_id: str, wanted: Sequence[Budget], lacks: Mapping[str, BudgetShortage]
) -> list[BudgetStatus]:
    """How these budgets stand now. *lacks*: what is missing to tasks that wait, as ``lacking`` found it."""
    if not wanted:
        return []
    now = tx.execute(select(db_now())).scalar_one()
    zone = ZoneInfo(budgets.zone(tx, workspace_id) or "UTC")
    keys = {one.id: (one.id, starts_of(one.period, now, zone)) for one in wanted}
    uses = budget_usage.uses(tx, workspace_id, keys.values())
    names = budgets.names(tx, workspace_id, wanted)
    waiting = Counter(lack.budget.id for lack in lacks.values())
    return [
        BudgetStatus(
            one, names.get(one.id, one.subject), uses.get(keys[one.id], BudgetUse(*keys[one.id])), waiting[one.id]
        )
        for one in wanted
    ]


class _Desk:
    """Tasks, the budgets that apply to them, and what they are expected to cost."""

    def __init__(self, tx: Connection, workspace_id: str, rows: Sequence[Row], estimator: Estimator) -> None:
        self._tx = tx
        self._workspace = workspace_id
        self._rows = rows
        self._estimator = estimator
        named = {name for row in rows for name in self._names(row)}
        self.found: dict[tuple[BudgetScope, str], list[Budget]] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._alike: dict[tuple[Any, ...], list[tuple[tuple[str, str], Budget]]] = {}
        self._rules: dict[str, Mapping[str, Any]] = {}
        applying = budgets.applying(tx, workspace_id, {subject for _, subject in named})
        for one in applying.budgets:
            if (one.scope, one.subject) in named:
                self.found.setdefault((one.scope, one.subject), []).append(one)
        if not self.found:
            return
        assert applying.now is not None  # noqa: S101 - it comes with the budgets
        self._keys = {one.id: (one.id, starts_of(one.period, applying.now, applying.zone)) for one in applying.budgets}
        self._estimates = estimator(tx, rows)

    def _names(self, row: Row) -> list[tuple[BudgetScope, str]]:
        return subjects_of(self._workspace, row["id"], row)

    def of(self, row: Row) -> list[tuple[tuple[str, str], Budget]]:
        """The budgets that apply to a task, each with its period of now."""
        alike = (row["project_id"], row["agent_id"], row["session_id"], row["run_id"])
        own = self.found.get((BudgetScope.TASK, row["id"]), ())
        if alike not in self._alike:
            every = [
                one for name in self._names(row) if name[0] is not BudgetScope.TASK for one in self.found.get(name, ())
            ]
            self._alike[alike] = [(self._keys[one.id], one) for one in every]
        return [*self._alike[alike], *((self._keys[one.id], one) for one in own)]

    def keys(self) -> set[tuple[str, str]]:
        """All of them."""
        return {self._keys[one.id] for group in self.found.values() for one in group}

    def judged(
        self, row: Row, mine: Sequence[tuple[tuple[str, str], Budget]], uses: Mapping[tuple[str, str], BudgetUse]
    ) -> tuple[str | None, Amount, BudgetShortage | None]:
        """The cheaper model that it is to use, what it would reserve, and why that does not fit, if it does not."""
        if not mine:
            return None, NOTHING, None
        wanted = self._wanted(row, self._estimates[row["id"]], mine, uses)
        model = self._cheaper(row, wanted, mine, uses)
        if model is not None:
            cheaper = {**row, "work": with_model(row["work"], model)}
            wanted = self._wanted(row, self._estimator(self._tx, [cheaper])[row["id"]], mine, uses)
        lacks = [lack for key, one in mine if one.holds and (lack := short(one, uses[key], wanted))]
        # What only a person can mend is said before what passes by itself.
        return model, wanted, min(lacks, key=lambda lack: lack.passing, default=None)

    def _wanted(
        self,
        row: Row,
        estimate: Estimate,
        mine: Sequence[tuple[tuple[str, str], Budget]],
        uses: Mapping[tuple[str, str], BudgetUse],
    ) -> Amount:
        dollars, tokens = estimate.usd, estimate.tokens
        if estimate.source == "unknown":
            # What is left of a cap, or one such job that was lost or put off would wait for ever before half of it.
            left = [plus(one.usd, minus(uses[key].spent.usd)) for key, one in mine if one.usd is not None and one.holds]
            dollars = max(dollars, min([ASSUMED, *(each for each in left if each > 0)]))
        for key, one in mine:
            # It is stopped at its own cap, so it cannot come to more than what is left of that.
            if one.scope is BudgetScope.TASK and one.holds:
                spent = uses[key].spent
                if one.usd is not None and one.usd > spent.usd:
                    dollars = min(dollars, plus(one.usd, minus(spent.usd)))
                if one.tokens is not None and one.tokens > spent.tokens:
                    tokens = min(tokens, one.tokens - spent.tokens)
        needs = amount_of((row["carried"] or {}).get(NEEDS) or {})
        return Amount(dollars, tokens, estimate.unpriced, int(asks_a_model(row["work"]))).most(needs)

    def _cheaper(
        self,
        row: Row,
        wanted: Amount,
        mine: Sequence[tuple[tuple[str, str], Budget]],
        uses: Mapping[tuple[str, str], BudgetUse],
    ) -> str | None:
        for key, one in mine:
            if one.action is not ExceededAction.DOWNGRADE or one.downgrade_to is None:
                continue
            if not asks_a_model(row["work"]) or row["work"] == with_model(row["work"], one.downgrade_to):
                continue
            due = due_to_warn(one, uses[key].taken + wanted) or short(one, uses[key], wanted)
            if due and self._allows(row, one.downgrade_to):
                return one.downgrade_to
        return None

    def _allows(self, row: Row, model: str) -> bool:
        """Whether the project allows it: rather a dearer model than one that would end the job."""
        project_id = row["project_id"]
        if project_id not in self._rules:
            project = projects.get(self._tx, self._workspace, project_id)
            self._rules[project_id] = {} if project is None else project.model_restrictions
        try:
            rules = parse_restrictions(self._rules[project_id])
        except Refused:
            return False
        return rules is None or refusal(with_model(row["work"], model), rules, rendered=True) is None


def model_of(work: Mapping[str, Any]) -> str | None:
    """The model that a job names: of a chat with its provider, as in its plan."""
    return job_class(work).qualified_model_in(work)


def with_model(work: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the job with another model; a chat stays with its provider, if the model names none."""
    return job_class(work).with_model(work, model)


def set_cap(tx: Connection, workspace_id: str, wanted: Budget) -> Budget:
    """Set a budget, or change the one that there is; what is spent in its period so far counts.

    Raises Refused for a cap below what is spent already.
    """
    known = budgets.find(tx, workspace_id, wanted.scope, wanted.subject, wanted.period)
    wanted = replace(wanted, id=budgets.put(tx, workspace_id, wanted))
    use = count(tx, workspace_id, wanted)
    for what, cap, spent in (
        ("dollars", wanted.usd, use.spent.usd),
        ("tokens", wanted.tokens, use.spent.tokens),
        ("starts", wanted.max_starts, use.spent.starts),
    ):
        if cap is not None and spent > cap:
            said = show_usd(spent) if isinstance(spent, Decimal) else f"{spent:,} {what}"
            before = "" if known is None else f"; it stays at {known.caps()}"
            raise Refused(
                f"{said} are spent of {wanted.named()} already: a cap of {wanted.caps()} is below that{before}",
                hint="Set it higher, or pause what it is for: coord projects pause",
            )
    return wanted


def count(tx: Connection, workspace_id: str, budget: Budget) -> BudgetUse:
    """Count what is spent and reserved of the present period anew, from the ledger and the attempts; written so.

    Starts that were counted stay counted, also when retention has deleted their attempts.
    """
    use, counted, reserved = _counted(tx, workspace_id, budget, make=True)
    budget_usage.note_reserved(tx, workspace_id, reserved)
    if (use.spent, use.reserved) != (counted.spent, counted.reserved) or use.warned or use.reached:
        budget_usage.write_uses(tx, workspace_id, [counted])
    return counted


def compare(tx: Connection, workspace_id: str, budget: Budget) -> tuple[BudgetUse, BudgetUse]:
    """What is kept of the present period, and what ``count`` would write; nothing is written, but all is locked."""
    use, counted, _ = _counted(tx, workspace_id, budget, make=False)
    return use, counted


def _counted(
    tx: Connection, workspace_id: str, budget: Budget, *, make: bool
) -> tuple[BudgetUse, BudgetUse, dict[tuple[str, int], Reservation]]:
    """The use as kept, as counted, and what running attempts have reserved of it that does not say so."""
    starts, begins = period_of(tx, workspace_id, budget)
    key = (budget.id, starts)
    running = budget_usage.lock_running(tx, workspace_id, budget.scope, budget.subject)
    use = budget_usage.lock_uses(tx, workspace_id, [key], make=[key] if make else ()).get(
        key, BudgetUse(budget.id, starts)
    )
    reserved: dict[tuple[str, int], Reservation] = {}
    held = NOTHING
    for one in running:
        kept = one.reserved or Reservation()
        if one.reserved is None and not one.paid:
            continue
        if key not in kept.of:
            if begins is not None and one.started_at < begins:
                continue
            # The start is noted too, so that it is given back if the job turns out never to have been started.
            amount = kept.amount.most(Amount(starts=int(one.paid)))
            reserved[one.task_id, one.number] = replace(kept, amount=amount, of=(*kept.of, key))
        held += kept.amount.without_starts()
    spent = budget_usage.spent(tx, workspace_id, budget.scope, budget.subject, since=begins)
    began = starts_counted.count(tx, workspace_id, budget.scope, budget.subject, since=begins)
    spent = replace(spent, starts=max(began, use.spent.starts))
    return use, BudgetUse(budget.id, starts, spent, held), reserved


def period_of(tx: Connection, workspace_id: str, budget: Budget) -> tuple[str, datetime | None]:
    """The first day of the budget's present period, and the moment at which it began; None: never."""
    if budget.period is BudgetPeriod.TOTAL:
        return "", None
    zone = ZoneInfo(budgets.zone(tx, workspace_id) or "UTC")
    starts = starts_of(budget.period, tx.execute(select(db_now())).scalar_one(), zone)
    return starts, datetime.fromisoformat(starts).replace(tzinfo=zone)
