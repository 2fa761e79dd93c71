"""Reprices calls in the ledger by adding corrections. Records are not changed, and nothing is billed twice.

Calls without a price get the present one; on request also calls that were reported as free, and calls whose cost was
computed from other prices. The id of a correction is derived from its record, so that repetitions, crashes and
concurrent runs add nothing.
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
from coordination.domain.money.pricing import (
    PRICED_BY,
    PriceList,
    UnknownPrice,
    is_computed,
    make_correction,
    sum_exactly,
)
from coordination.services.money import ledger
from coordination.services.money import prices as service
from coordination.store.engine import Store
from coordination.store.queries.money import costs

BATCH = 500


@dataclass(frozen=True, slots=True)
class RepricingRequest:
    """Selects calls: without a price, also those reported as free (*zero*) and those of *computed* cost."""

    project_id: str | None = None
    since: datetime | None = None
    zero: bool = False
    computed: bool = False


@dataclass(slots=True)
class RepricingResult:
    """The number and dollars of corrections by (model, source of the price), and calls *left* by (model, why)."""

    looked_at: int = 0
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    usd: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    left: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def corrected(self) -> int:
        """Return the number of corrected calls."""
        return self.calls.total()

    @property
    def added_usd(self) -> Decimal:
        """Return the increase of the ledger's total."""
        return sum_exactly(self.usd.values())

    def add(self, corrections: Iterable[CostRecord]) -> None:
        """Count corrections."""
        for correction in corrections:
            key = correction.model, str(correction.extra[PRICED_BY])
            self.calls[key] += 1
            self.usd[key] = sum_exactly([self.usd.get(key, ZERO), correction.cost_usd or ZERO])


def reprice_costs(
    store: Store,
    workspace_id: str,
    request: RepricingRequest,
    *,
    price_list: PriceList,
    actor: str | None,
    dry_run: bool = False,
) -> RepricingResult:
    """Correct the requested calls, one batch for each transaction; *dry_run*: only return what would be corrected."""
    result = RepricingResult()
    with store.read() as tx:
        book = service.open_book(tx, workspace_id, price_list)
    for calls, corrections in _pages(store, workspace_id, request):
        new = []
        for call in calls:
            before = corrections.get(call.id, [])
            if not _matches(call, before, request):
                continue
            result.looked_at += 1
            cost = book.price_call(call, call.project_id, call.occurred_at)
            if isinstance(cost, UnknownPrice):
                result.left[call.model, cost.why] += 1
            elif (correction := make_correction(call, before, cost, actor=actor)) is not None:
                new.append(correction)
        if new and not dry_run:
            new = _store(store, workspace_id, new, result)
        result.add(new)
    return result


def _pages(
    store: Store, workspace_id: str, request: RepricingRequest
) -> Iterator[tuple[list[CostRecord], dict[str, list[CostRecord]]]]:
    """Yield pages of calls, oldest first, with their corrections. Each page is read anew: the ledger may grow."""
    after: CostRecord | None = None
    also_priced = request.zero or request.computed
    while True:
        with store.read() as tx:
            calls = costs.calls_to_price(
                tx,
                workspace_id,
                project_id=request.project_id,
                since=request.since,
                also_priced=also_priced,
                after=after,
                limit=BATCH,
            )
            corrections = costs.corrections(tx, workspace_id, [call.id for call in calls]) if also_priced else {}
        if not calls:
            return
        yield calls, corrections
        after = calls[-1]


def _matches(call: CostRecord, corrections: Sequence[CostRecord], request: RepricingRequest) -> bool:
    if corrections:
        return request.computed
    if call.cost_usd is None:
        return True
    if is_computed(call):
        return request.computed
    return request.zero and call.cost_usd == 0 and call.input_tokens + call.output_tokens > 0


def _store(store: Store, workspace_id: str, new: list[CostRecord], result: RepricingResult) -> list[CostRecord]:
    """Append corrections, and return those that the ledger contains afterwards."""

    def write(tx: Connection) -> list[CostRecord]:
        if len(ledger.append_records(tx, workspace_id, new)) == len(new):
            return new
        # Another process was first, or our own commit succeeded without an answer, or another record has the id.
        stored = costs.read_records(tx, workspace_id, [one.id for one in new])
        return [one for one in new if one.id in stored and stored[one.id].corrects == one.corrects]

    kept = store.transact(write)
    ids = {one.id for one in kept}
    for correction in new:
        if correction.id not in ids:
            result.left[correction.model, "another record has the id that its correction would have"] += 1
    return kept
