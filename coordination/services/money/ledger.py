"""The only write path to the cost ledger; updates budgets and totals in the same transaction.

The costs of a running attempt move from reserved to spent in its budgets. When it ends, the rest is released.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo

from sqlalchemy import Connection

from coordination.domain.money.budget_events import budget_events, mark_thresholds
from coordination.domain.money.budgets import (
    NOTHING,
    Amount,
    Budget,
    BudgetScope,
    BudgetShortage,
    BudgetUse,
    Reservation,
    budget_subjects,
    find_shortage,
    period_start,
)
from coordination.domain.money.cost_totals import sum_records
from coordination.domain.money.costs import CostRecord, id_with_attempt
from coordination.domain.tasks.events import NewEvent
from coordination.store.queries.money import budgets, costs, rollups
from coordination.store.queries.money.budgets import AttemptReservation
from coordination.store.queries.projects import retention
from coordination.store.queries.tasks import events
from coordination.store.tables.money.rollups import ARCHIVED

Fence = tuple[str, int]
"""A task id and an attempt number."""

Key = tuple[str, str]
"""The id of a budget and the first day of a period."""


@dataclass(slots=True)
class SettleResult:
    """The result of a settlement. ``new``: the records that were new, in their order.

    ``room``: reserved money was released, so that other tasks may fit now. ``stops``: running attempts that cannot
    reserve the cost of another call like their largest, and why.
    """

    new: list[CostRecord]
    room: bool = False
    stops: dict[Fence, BudgetShortage] = field(default_factory=dict)


def append_records(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Append records, and return those that were new, in their order. Skips ids that exist."""
    return settle(tx, workspace_id, records, reported=False).new


def settle(
    tx: Connection,
    workspace_id: str,
    records: Sequence[CostRecord],
    *,
    closing: Collection[Fence] = (),
    reported: bool = True,
) -> SettleResult:
    """Append the costs of attempts, and release the reservations of those that end.

    Skips records that exist. If the id of a *reported* record belongs to another attempt's call, it gets another id.
    *closing*: attempts that this transaction has ended.
    """
    if not records and not closing:
        return SettleResult([])
    records = costs.with_agents(tx, workspace_id, records)
    settling = _Settling(tx, workspace_id, records, closing)
    append = _append_reported if reported else _append
    return settling.settle(append(tx, workspace_id, records))


def _append(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    if not records:
        return []
    shard = rollups.lock_shard(tx, workspace_id)
    new = costs.append(tx, workspace_id, records)
    if new:
        days = rollups.days(tx, workspace_id, (one.occurred_at for one in new))
        rollups.add(tx, workspace_id, sum_records(new, days), shard=shard)
    return new


def _append_reported(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Append the costs of attempts. A record whose id another attempt uses gets one of its own."""
    new = _append(tx, workspace_id, records)
    if len(new) == len(records):
        return new
    added = set(map(id, new))
    left = [one for one in records if id(one) not in added and one.task_id is not None and one.attempt is not None]
    stored = costs.read_records(tx, workspace_id, sorted({one.id for one in left}))
    others = [replace(one, id=id_with_attempt(one)) for one in left if not _is_same_call(one, stored.get(one.id))]
    return [*new, *_append(tx, workspace_id, others)]


def _is_same_call(record: CostRecord, stored: CostRecord | None) -> bool:
    """Return whether the stored record is the same call: of the same attempt, or imported with the same numbers."""
    if stored is None or stored.attempt is None:
        numbers = ("model", "total_tokens", "cost_usd")
        return stored is None or all(getattr(record, name) == getattr(stored, name) for name in numbers)
    return (record.task_id, record.attempt) == (stored.task_id, stored.attempt)


def delete_records(tx: Connection, workspace_id: str, ids: Sequence[str]) -> int:
    """Delete records and return how many existed. Their amounts stay in the totals, in the shard of archived ones."""
    shard = rollups.lock_shard(tx, workspace_id)
    deleted = retention.delete_costs(tx, workspace_id, ids)
    if deleted:
        sums = sum_records(deleted, rollups.days(tx, workspace_id, (one.occurred_at for one in deleted)))
        rollups.add(tx, workspace_id, {key: -one for key, one in sums.items()}, shard=shard)
        rollups.add(tx, workspace_id, sums, shard=ARCHIVED)
    return len(deleted)


def amount_of_record(record: CostRecord) -> Amount:
    """Return what a record adds to the spent amount. A correction is not a call, and may price an unpriced one."""
    if record.corrects is not None:
        return Amount(record.cost_usd or NOTHING.usd, 0, -1 if record.settles else 0)
    return Amount(record.cost_usd or NOTHING.usd, record.total_tokens, int(record.cost_usd is None))


class _Settling:
    """One settlement. Locks attempts first, then the counters of budgets."""

    def __init__(
        self, tx: Connection, workspace_id: str, records: Sequence[CostRecord], closing: Collection[Fence]
    ) -> None:
        self._tx = tx
        self._workspace = workspace_id
        self._records = records
        self._result = SettleResult([])
        self._closing = frozenset(closing)
        self._spent: dict[Key, Amount] = {}
        self._released: dict[Key, Amount] = {}
        self._reserved: dict[Fence, Reservation] = {}
        self._extending: list[tuple[Fence, list[tuple[Key, Budget]]]] = []
        self._cause: dict[Key, CostRecord] = {}
        # Most records have the same few subjects.
        different = {(one.project_id, one.agent_id, one.session_id, one.run_id, one.task_id): one for one in records}
        subjects = {each for one in different.values() for each in self._subjects(one)}
        applicable = budgets.find_applicable(tx, workspace_id, {subject for _, subject in subjects})
        self._zone: tzinfo = applicable.zone
        self._budgets = {one.id: one for one in applicable.budgets if (one.scope, one.subject) in subjects}
        fences = {(one.task_id, one.attempt) for one in records if one.task_id is not None and one.attempt is not None}
        fences = (fences if self._budgets else set()) | self._closing
        self._reservations = budgets.lock_reservations(tx, workspace_id, fences)

    def settle(self, new: list[CostRecord]) -> SettleResult:
        """Count the *new* records in budgets. Locks the counters."""
        self._result.new = new
        if self._budgets or any(one.reserved for one in self._reservations.values()):
            calls = self._spend()
            for fence, attempt in self._reservations.items():
                self._release(fence, attempt, calls.get(fence, ()))
            self._write()
        return self._result

    def _subjects(self, record: CostRecord) -> list[tuple[BudgetScope, str]]:
        """Return whose budgets apply to a record."""
        of = {name: getattr(record, name) for name in ("project_id", "agent_id", "session_id", "run_id")}
        return budget_subjects(self._workspace, record.task_id, of)

    def _spend(self) -> dict[Fence, list[Amount]]:
        """Add the new records to what their budgets have spent, and return their amounts by attempt."""
        calls: dict[Fence, list[Amount]] = {}
        by_subject: dict[tuple[BudgetScope, str], list[Budget]] = {}
        for budget in self._budgets.values():
            by_subject.setdefault((budget.scope, budget.subject), []).append(budget)
        for record in self._result.new:
            fence = (record.task_id or "", record.attempt or 0)
            attempt = self._reservations.get(fence)
            moment = record.occurred_at if attempt is None else attempt.started_at
            spent = amount_of_record(record)
            calls.setdefault(fence, []).append(spent)
            for subject in self._subjects(record):
                for budget in by_subject.get(subject, ()):
                    key = self._key(budget, moment)
                    self._spent[key] = self._spent.get(key, NOTHING) + spent
                    self._cause[key] = record
        return calls

    def _release(self, fence: Fence, attempt: AttemptReservation, calls: Sequence[Amount]) -> None:
        """Lower the reservation of an attempt by its costs; by the rest, when it ends."""
        before = attempt.reserved
        if fence in self._closing:
            # An attempt ends once, by its owner. Its stored reservation stays, for people who investigate.
            if before is not None:
                unused = before.amount.without_starts() if attempt.began else before.amount
                self._add_release(before.of, unused)
                self._result.room = self._result.room or bool(unused)
            return
        if attempt.finished:
            return
        if before is None:
            before = Reservation()
        after = before.after(calls)
        # Of all records, including existing ones: a worker that does not know whether its write succeeded repeats it.
        own = [one for one in self._records if (one.task_id, one.attempt) == fence]
        subjects = {subject for one in own for subject in self._subjects(one)}
        every = self._budgets.values()
        mine = [(self._key(one, attempt.started_at), one) for one in every if (one.scope, one.subject) in subjects]
        self._reserved[fence] = replace(after, of=sorted({*before.of, *(key for key, _ in mine)}))
        self._add_release(before.of, before.amount - after.amount)
        # The rest is reserved in budgets that were set meanwhile, too.
        self._add_release((key for key, _ in mine if key not in before.of), NOTHING - after.amount)
        self._extending.append((fence, mine))

    def _add_release(self, keys: Iterable[Key], amount: Amount) -> None:
        for key in keys:
            self._released[key] = self._released.get(key, NOTHING) + amount

    def _key(self, budget: Budget, moment: datetime) -> Key:
        return budget.id, period_start(budget.period, moment, self._zone)

    def _write(self) -> None:
        tx, workspace_id = self._tx, self._workspace
        create = {*self._spent, *(key for _, mine in self._extending for key, _ in mine)}
        uses = budgets.lock_uses(tx, workspace_id, {*create, *self._released}, create=create)
        for key, use in uses.items():
            rest = use.without_claim(self._released.get(key, NOTHING))
            uses[key] = replace(rest, spent=rest.spent + self._spent.get(key, NOTHING))
        for fence, mine in self._extending:
            self._extend(fence, mine, uses)
        new_events: list[NewEvent] = []
        for key, use in uses.items():
            budget = self._budgets.get(key[0])
            if budget is not None:
                uses[key], types = mark_thresholds(budget, use)
                cause = self._cause.get(key)
                new_events += budget_events(budget, uses[key], types, None if cause is None else cause.project_id)
        budgets.write_uses(tx, workspace_id, uses.values())
        budgets.write_reservations(tx, workspace_id, self._reserved)
        events.append(tx, workspace_id, new_events)

    def _extend(self, fence: Fence, mine: Sequence[tuple[Key, Budget]], uses: dict[Key, BudgetUse]) -> None:
        """Reserve another call like the largest so far, or let the job be stopped before it makes one."""
        reservation = self._reserved[fence]
        missing = reservation.missing()
        if not missing:
            return
        mine = [(key, budget) for key, budget in mine if key in uses]
        for key, budget in mine:
            if budget.holds and (shortage := find_shortage(budget, uses[key], missing)):
                # The attempt's own reservation is not in its way.
                others = replace(uses[key], reserved=(uses[key].reserved - reservation.amount).max_with(NOTHING))
                largest = reservation.largest
                self._result.stops[fence] = find_shortage(budget, others, largest) or replace(shortage, wanted=largest)
                return
        for key, _ in mine:
            uses[key] = replace(uses[key], reserved=uses[key].reserved + missing)
        self._reserved[fence] = replace(reservation, amount=reservation.amount + missing)
