"""Give calls in the ledger the price they should have, by corrections beside them: nothing is changed, or billed twice.

A call without a price gets the one that is known now; on request, so do calls that are said to have cost nothing, and
calls whose cost was computed by other prices. The id of a correction follows from what it corrects, so a repetition, a
crash in the middle and another one at the same time add nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from coordination.base.money import ZERO
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.pricing import PRICED_BY, Listed, UnknownPrice, correction, is_computed, sum_of
from coordination.services.money import ledger
from coordination.services.money import prices as service
from coordination.store.engine import Store
from coordination.store.queries.money import costs

BATCH = 500


@dataclass(frozen=True, slots=True)
class RepricingRequest:
    """Which calls: those of unknown price; also those told to be free (*zero*), and of computed cost (*computed*)."""

    project_id: str | None = None
    since: datetime | None = None
    zero: bool = False
    computed: bool = False


@dataclass(slots=True)
class RepricingResult:
    """What was corrected, by (model, whose price); what was not, by (model, why)."""

    looked_at: int = 0
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    usd: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    left: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def corrected(self) -> int:
        """How many calls."""
        return self.calls.total()

    @property
    def added_usd(self) -> Decimal:
        """By how much the ledger's sum is larger."""
        return sum_of(self.usd.values())

    def note(self, made: Iterable[CostRecord]) -> None:
        """These corrections."""
        for one in made:
            key = one.model, str(one.extra[PRICED_BY])
            self.calls[key] += 1
            self.usd[key] = sum_of([self.usd.get(key, ZERO), one.cost_usd or ZERO])


def reprice_costs(
    store: Store,
    workspace_id: str,
    wanted: RepricingRequest,
    *,
    listed: Listed,
    actor: str | None,
    dry_run: bool = False,
) -> RepricingResult:
    """Correct what is *wanted*, a batch a transaction; with *dry_run*, only say what would be."""
    done = RepricingResult()
    with store.read() as tx:
        book = service.open_book(tx, workspace_id, listed)
    for calls, corrections in _pages(store, workspace_id, wanted):
        made = []
        for call in calls:
            before = corrections.get(call.id, [])
            if not _is_wanted(call, before, wanted):
                continue
            done.looked_at += 1
            found = book.priced(call, call.project_id, call.occurred_at)
            if isinstance(found, UnknownPrice):
                done.left[call.model, found.why] += 1
            elif (one := correction(call, before, found, actor=actor)) is not None:
                made.append(one)
        if made and not dry_run:
            made = _written(store, workspace_id, made, done)
        done.note(made)
    return done


def _pages(
    store: Store, workspace_id: str, wanted: RepricingRequest
) -> Iterator[tuple[list[CostRecord], dict[str, list[CostRecord]]]]:
    """Calls, the oldest first, with their corrections; each page is read anew, so the ledger may grow meanwhile."""
    after: CostRecord | None = None
    also_priced = wanted.zero or wanted.computed
    while True:
        with store.read() as tx:
            calls = costs.calls_to_price(
                tx,
                workspace_id,
                project_id=wanted.project_id,
                since=wanted.since,
                also_priced=also_priced,
                after=after,
                limit=BATCH,
            )
            made = costs.corrections(tx, workspace_id, [call.id for call in calls]) if also_priced else {}
        if not calls:
            return
        yield calls, made
        after = calls[-1]


def _is_wanted(call: CostRecord, made: Sequence[CostRecord], wanted: RepricingRequest) -> bool:
    if made:
        return wanted.computed
    if call.cost_usd is None:
        return True
    if is_computed(call):
        return wanted.computed
    return wanted.zero and call.cost_usd == 0 and call.input_tokens + call.output_tokens > 0


def _written(store: Store, workspace_id: str, made: list[CostRecord], done: RepricingResult) -> list[CostRecord]:
    """Append these corrections; those that stand in the ledger now."""

    def write(tx: Connection) -> list[CostRecord]:
        if len(ledger.record(tx, workspace_id, made)) == len(made):
            return made
        # Somebody was first, or it is our own commit whose answer was lost, or another record has that very id.
        there = costs.named(tx, workspace_id, [one.id for one in made])
        return [one for one in made if one.id in there and there[one.id].corrects == one.corrects]

    kept = store.transact(write)
    ids = {one.id for one in kept}
    for one in made:
        if one.id not in ids:
            done.left[one.model, "another record has the id that its correction would have"] += 1
    return kept
