"""The ledger's one way in: what is written to it counts, in the same transaction, wherever its money is counted.

What a running attempt spent moves from what it has reserved of its budgets to what is spent of them; what an ended one
did not need is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo

from sqlalchemy import Connection

from coordination.domain.money.budget_events import events_of, noticed
from coordination.domain.money.budgets import (
    NOTHING,
    Amount,
    Budget,
    BudgetScope,
    BudgetShortage,
    BudgetUse,
    Reservation,
    short,
    starts_of,
    subjects_of,
)
from coordination.domain.money.cost_totals import added_up
from coordination.domain.money.costs import CostRecord, own_id
from coordination.domain.tasks.events import NewEvent
from coordination.store.queries.money import budget_usage, budgets, costs, rollups
from coordination.store.queries.money.budget_usage import AttemptReservation
from coordination.store.queries.projects import retention
from coordination.store.queries.tasks import events
from coordination.store.tables.money.rollups import ARCHIVED

Fence = tuple[str, int]
"""A task and the number of its attempt."""

Key = tuple[str, str]
"""A budget and the first day of a period of it."""


@dataclass(slots=True)
class LedgerEntry:
    """What came of it. ``new``: the records that were not there before, in their order.

    ``room``: reserved money came back, so that others may fit now. ``stops``: running attempts that can no longer
    reserve what another call like their dearest would cost, and why.
    """

    new: list[CostRecord]
    room: bool = False
    stops: dict[Fence, BudgetShortage] = field(default_factory=dict)


def record(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Append records; those that were new, in their order. One whose id is already there is left alone."""
    return _settle(tx, workspace_id, records, (), _append).new


def settle(
    tx: Connection, workspace_id: str, records: Sequence[CostRecord], *, closing: Collection[Fence] = ()
) -> LedgerEntry:
    """Append what attempts spent, and give back what those had reserved that end here.

    A record whose id is there already is left alone if it is the same attempt's; the id of another attempt's call is
    no call of this one. *closing*: attempts that were closed in this transaction, and by nothing before it.
    """
    return _settle(tx, workspace_id, records, closing, _append_reported)


def _settle(
    tx: Connection,
    workspace_id: str,
    records: Sequence[CostRecord],
    closing: Collection[Fence],
    append: Callable[[Connection, str, Sequence[CostRecord]], list[CostRecord]],
) -> LedgerEntry:
    if not records and not closing:
        return LedgerEntry([])
    records = costs.with_agents(tx, workspace_id, records)
    settling = _Settling(tx, workspace_id, records, closing)
    return settling.settle(append(tx, workspace_id, records))


def _append(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    if not records:
        return []
    shard = rollups.begin(tx, workspace_id)
    new = costs.append(tx, workspace_id, records)
    if new:
        days = rollups.days(tx, workspace_id, (one.occurred_at for one in new))
        rollups.add(tx, workspace_id, added_up(new, days), shard=shard)
    return new


def _append_reported(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """The same of what attempts spent: a record whose id is another attempt's gets one of its own."""
    new = _append(tx, workspace_id, records)
    if len(new) == len(records):
        return new
    known = set(map(id, new))
    left = [one for one in records if id(one) not in known and one.task_id is not None and one.attempt is not None]
    there = costs.named(tx, workspace_id, sorted({one.id for one in left}))
    others = [replace(one, id=own_id(one)) for one in left if not _is_same_call(one, there.get(one.id))]
    return [*new, *_append(tx, workspace_id, others)]


def _is_same_call(one: CostRecord, there: CostRecord | None) -> bool:
    """Whether the ledger has it: from the same attempt, or as the provider's bill says it."""
    if there is None or there.attempt is None:
        numbers = ("model", "total_tokens", "cost_usd")
        return there is None or all(getattr(one, name) == getattr(there, name) for name in numbers)
    return (one.task_id, one.attempt) == (there.task_id, there.attempt)


def forget(tx: Connection, workspace_id: str, ids: Sequence[str]) -> int:
    """Delete these records; how many were there. What they came to stays in the sums, as no longer in the ledger."""
    shard = rollups.begin(tx, workspace_id)
    gone = retention.delete_costs(tx, workspace_id, ids)
    if gone:
        sums = added_up(gone, rollups.days(tx, workspace_id, (one.occurred_at for one in gone)))
        rollups.add(tx, workspace_id, {cell: one.taken_back() for cell, one in sums.items()}, shard=shard)
        rollups.add(tx, workspace_id, sums, shard=ARCHIVED)
    return len(gone)


def amount(record: CostRecord) -> Amount:
    """What a record adds to what is spent. A correction is no call, and may take back that a price was unknown."""
    if record.corrects is not None:
        return Amount(record.cost_usd or NOTHING.usd, 0, -1 if record.settles else 0)
    return Amount(record.cost_usd or NOTHING.usd, record.total_tokens, int(record.cost_usd is None))


class _Settling:
    """One settlement: attempts are locked first, then what is spent and reserved of the budgets."""

    def __init__(
        self, tx: Connection, workspace_id: str, records: Sequence[CostRecord], closing: Collection[Fence]
    ) -> None:
        self._tx = tx
        self._workspace = workspace_id
        self._records = records
        self._done = LedgerEntry([])
        self._closing = frozenset(closing)
        self._spent: dict[Key, Amount] = {}
        self._given_back: dict[Key, Amount] = {}
        self._reserved: dict[Fence, Reservation] = {}
        self._wanted: list[tuple[Fence, list[tuple[Key, Budget]]]] = []
        self._about: dict[Key, CostRecord] = {}
        # Of many, most are of the same few things.
        different = {(one.project_id, one.agent_id, one.session_id, one.run_id, one.task_id): one for one in records}
        named = {each for one in different.values() for each in self._names(one)}
        applying = budgets.applying(tx, workspace_id, {subject for _, subject in named})
        self._zone: tzinfo = applying.zone
        self._found = [one for one in applying.budgets if (one.scope, one.subject) in named]
        self._budgets = {one.id: one for one in self._found}
        fences = {(one.task_id, one.attempt) for one in records if one.task_id is not None and one.attempt is not None}
        fences = (fences if self._found else set()) | self._closing
        self._holdings = budget_usage.lock_holdings(tx, workspace_id, fences)

    def settle(self, new: list[CostRecord]) -> LedgerEntry:
        """Count what is *new* in the ledger; the counters are locked from here on."""
        self._done.new = new
        if self._found or any(one.reserved for one in self._holdings.values()):
            calls = self._spend(self._found, self._holdings)
            for fence, holding in self._holdings.items():
                self._give_back(fence, holding, calls.get(fence, ()), self._found)
            self._write()
        return self._done

    def _names(self, record: CostRecord) -> list[tuple[BudgetScope, str]]:
        """Whose budgets apply to a record."""
        of = {name: getattr(record, name) for name in ("project_id", "agent_id", "session_id", "run_id")}
        return subjects_of(self._workspace, record.task_id, of)

    def _spend(
        self, found: Sequence[Budget], holdings: Mapping[Fence, AttemptReservation]
    ) -> dict[Fence, list[Amount]]:
        calls: dict[Fence, list[Amount]] = {}
        by_subject: dict[tuple[BudgetScope, str], list[Budget]] = {}
        for budget in found:
            by_subject.setdefault((budget.scope, budget.subject), []).append(budget)
        for one in self._done.new:
            fence = (one.task_id or "", one.attempt or 0)
            holding = holdings.get(fence)
            moment = one.occurred_at if holding is None else holding.started_at
            spent = amount(one)
            calls.setdefault(fence, []).append(spent)
            for name in self._names(one):
                for budget in by_subject.get(name, ()):
                    key = self._key(budget, moment)
                    self._spent[key] = self._spent.get(key, NOTHING) + spent
                    self._about[key] = one
        return calls

    def _give_back(
        self, fence: Fence, holding: AttemptReservation, calls: Sequence[Amount], found: Sequence[Budget]
    ) -> None:
        """Lower what the attempt has reserved by what it spent; all of it, when it ends."""
        before = holding.reserved
        if fence in self._closing:
            # It is closed once, by whoever holds it; what it had reserved stays written there, to be looked at.
            if before is not None:
                unused = before.amount.without_starts() if holding.began else before.amount
                self._less(before.of, unused)
                self._done.room = self._done.room or bool(unused)
            return
        if holding.finished:
            return
        if before is None:
            before = Reservation()
        after = before.after(calls)
        # Of all records, also of those that were there: they are written again when nobody knew that they were.
        whose = {name for one in self._records if (one.task_id, one.attempt) == fence for name in self._names(one)}
        mine = [(self._key(one, holding.started_at), one) for one in found if (one.scope, one.subject) in whose]
        self._reserved[fence] = replace(after, of=sorted({*before.of, *(key for key, _ in mine)}))
        self._less(before.of, before.amount - after.amount)
        # What it has left counts for a budget that was set meanwhile, too.
        self._less((key for key, _ in mine if key not in before.of), NOTHING - after.amount)
        self._wanted.append((fence, mine))

    def _less(self, keys: Iterable[Key], amount: Amount) -> None:
        for key in keys:
            self._given_back[key] = self._given_back.get(key, NOTHING) + amount

    def _key(self, budget: Budget, moment: datetime) -> Key:
        return budget.id, starts_of(budget.period, moment, self._zone)

    def _write(self) -> None:
        tx, workspace_id = self._tx, self._workspace
        wanted = {key for _, mine in self._wanted for key, _ in mine}
        make = {*self._spent, *wanted}
        uses = budget_usage.lock_uses(tx, workspace_id, {*make, *self._given_back}, make=make)
        for key, use in uses.items():
            less = use.releasing(self._given_back.get(key, NOTHING))
            uses[key] = replace(less, spent=less.spent + self._spent.get(key, NOTHING))
        for fence, mine in self._wanted:
            self._extend(fence, mine, uses)
        told: list[NewEvent] = []
        for key, use in uses.items():
            budget = self._budgets.get(key[0])
            if budget is not None:
                uses[key], said = noticed(budget, use)
                about = self._about.get(key)
                told += events_of(budget, uses[key], said, None if about is None else about.project_id)
        budget_usage.write_uses(tx, workspace_id, uses.values())
        budget_usage.note_reserved(tx, workspace_id, self._reserved)
        events.append(tx, workspace_id, told)

    def _extend(self, fence: Fence, mine: Sequence[tuple[Key, Budget]], uses: dict[Key, BudgetUse]) -> None:
        """Reserve another call like the dearest so far, or let the job be stopped before it makes one."""
        holds = self._reserved[fence]
        wanted = holds.missing()
        if not wanted:
            return
        mine = [(key, budget) for key, budget in mine if key in uses]
        found = [(lack, key) for key, budget in mine if budget.holds and (lack := short(budget, uses[key], wanted))]
        if found:
            lack, key = found[0]
            # What it has reserved itself is not in its own way.
            others = replace(uses[key], reserved=(uses[key].reserved - holds.amount).most(NOTHING))
            self._done.stops[fence] = short(lack.budget, others, holds.largest) or replace(lack, wanted=holds.largest)
            return
        for key, _ in mine:
            uses[key] = replace(uses[key], reserved=uses[key].reserved + wanted)
        self._reserved[fence] = replace(holds, amount=holds.amount + wanted)
