"""The usage of one running attempt: its runner reports it, the heartbeat writes it as costs. Thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from coordination.adapters import price_list
from coordination.base.clock import monotonic, utc_now
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.domain.money.budgets import NEEDS, BudgetShortage, sum_amounts
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.pricing import PriceBook, PricedCall, Quote, UnknownPrice, make_price_book
from coordination.domain.money.usage_deltas import UsageDeltas
from coordination.domain.tasks.attempts import AttemptEnd, AttemptIdentity, Claim, Outcome, Usage
from coordination.services.attempts.end import build_cost_record
from coordination.services.forecast.cost_estimates import make_estimator
from coordination.services.money.ledger import amount_of_record
from coordination.store.engine import Store
from coordination.store.queries.money import prices
from workers.runners.output import one_line
from workers.runners.usage_file import CostJournal

log = structlog.get_logger()

_LONGEST_NAME = 120
_MOST_AMOUNTS = 5
_MOST_WARNINGS = 20
_FRESH = 1.0  # seconds that prices are cached
_REMEMBERED = 1_000  # workspaces


class UsagePrices:
    """Price books of this process's workspaces, at most a second old, and an estimator that uses them. Thread-safe.

    They are loaded when the first call that was reported without a cost is recorded. A call that cannot be priced is
    recorded without a price and can be priced later. Never fails a job or delays others.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.estimator = make_estimator(self.quote, fresh=timedelta(seconds=_FRESH))
        self._books: dict[str, tuple[float, PriceBook]] = {}

    def add_cost(self, claim: AttemptIdentity, used: Usage) -> Usage:
        """Return the usage of one call with a cost, if it has none and there is a price."""
        if used.cost_usd is not None:
            return used
        try:
            call = self._book(claim.workspace_id).price_call(used, claim.project_id, used.at or utc_now())
        except Exception:
            # A failed price lookup must not fail the job.
            log.exception("a call is recorded without a price", task=claim.key, model=used.model)
            return used
        if not isinstance(call, PricedCall):
            return used
        return replace(used, cost_usd=call.usd, extra={**used.extra, **call.note})

    def quote(self, workspace_id: str, project_id: str, model: str) -> Quote | UnknownPrice:
        """Return the current price of a model, or UnknownPrice, also after an error."""
        try:
            return self._book(workspace_id).quote(model, project_id, utc_now())
        except Exception:
            log.exception("a price could not be looked up", model=model)
            return UnknownPrice("the prices could not be looked up")

    def _book(self, workspace_id: str) -> PriceBook:
        with self._lock:
            cached = self._books.get(workspace_id)
        if cached is not None and monotonic() - cached[0] < _FRESH:
            return cached[1]
        read_at = monotonic()
        with self._store.read() as tx:
            prices_now = make_price_book(prices.list_prices(tx, workspace_id), price_list.quote)
        with self._lock:
            if len(self._books) >= _REMEMBERED:
                self._books.clear()
            self._books[workspace_id] = (read_at, prices_now)
        return prices_now


class UsageMeter:
    """The usage of an attempt, and the budget shortage that stopped it, if any."""

    def __init__(self, claim: Claim, prices: UsagePrices, journal: CostJournal | None = None) -> None:
        """*journal*: keeps reported usage on disk until it is in the ledger."""
        self._lock = threading.Lock()
        self._resumable = claim.job_kind.asks_a_model  # goes on where it was stopped; others start over
        self._repeatable = claim.repeatable
        self._meter = UsageDeltas(
            lambda used: prices.add_cost(claim, used), lambda used: build_cost_record(claim, used, utc_now())
        )
        self._used: tuple[Usage, ...] = ()
        self._journal = journal
        self._changed = False
        self._shortage: BudgetShortage | None = None
        self._over = False

    def set_usage(self, used: Sequence[Usage]) -> None:
        """Replace the usage by the job's total so far."""
        with self._lock:
            self._used = tuple(used)
            self._changed = True
            self._keep(self._used)

    @property
    def has_unwritten(self) -> bool:
        """Whether there may be unwritten costs."""
        return self._changed

    @property
    def is_settled(self) -> bool:
        """Whether all costs are written and no budget is exhausted."""
        return not self._changed and self._shortage is None

    def due(self) -> list[CostRecord]:
        """Return the records to write, again until ``mark_written``. Empty after ``final_costs``."""
        with self._lock:
            return [] if self._over else self._meter.next_records(self._used)

    def mark_written(self, records: Sequence[CostRecord]) -> None:
        """Note that *records* are in the ledger."""
        with self._lock:
            self._meter.confirm(records)
            self._changed = not self._over and bool(self._meter.next_records(self._used))

    def must_stop_for(self, shortage: BudgetShortage) -> bool:
        """Return whether the shortage stops the job.

        A job that would start over may finish until a cap is exceeded; one that must not be repeated always may.
        """
        return self._resumable or (shortage.passed and self._repeatable)

    def set_shortage(self, shortage: BudgetShortage) -> None:
        """Record why the job is stopped."""
        self._shortage = shortage

    def final_costs(self, used: Sequence[Usage]) -> tuple[tuple[CostRecord, ...], tuple[CostRecord, ...]]:
        """Return the records still to write and those written, given the total usage of the job, which has ended."""
        with self._lock:
            self._over = True
            self._changed = False
            written = tuple(self._meter.confirmed)
            return tuple(self._meter.final_records(self._whole(used))), written

    def _whole(self, used: Sequence[Usage]) -> list[Usage]:
        """Return the total usage, including lines of its usage file and what it reported before it failed."""
        lines = {usage.line: usage for usage in (*self._used, *used) if usage.line is not None}
        rest = [usage for usage in used if usage.line is None] or [usage for usage in self._used if usage.line is None]
        self._keep(rest)
        return [*lines.values(), *rest]

    def _keep(self, used: Sequence[Usage]) -> None:
        if self._journal is not None:
            self._journal.write([usage for usage in used if usage.line is None])

    def warnings(self) -> list[str]:
        """Return a sentence for each call that was reported again with another amount."""
        with self._lock:
            return [
                f"the call {one_line(name, _LONGEST_NAME)} was reported with several amounts, and the largest counts: "
                + ", ".join(map(_amount, amounts[:_MOST_AMOUNTS]))
                for name, amounts in list(self._meter.conflicts.items())[:_MOST_WARNINGS]
            ]

    def apply_shortage(self, result: AttemptEnd, costs: Sequence[CostRecord]) -> AttemptEnd:
        """Add the needed budget to *result* if a shortage stopped the job. *costs*: all of its costs."""
        if self._shortage is None or result.outcome is not Outcome.DEFERRED:
            return result
        why = self._shortage.sentence()
        needs = self._shortage.wanted
        if not self._resumable:
            needs += sum_amounts(map(amount_of_record, costs))
        carry = {**result.carry_over, NEEDS: needs.to_json()}
        return replace(result, budget_shortage=why, error=f"it was stopped: {why}", carry_over=carry)


def _amount(usage: Usage) -> str:
    tokens = usage.input_tokens + usage.output_tokens if usage.total_tokens is None else usage.total_tokens
    return f"{'no price' if usage.cost_usd is None else show_usd(usage.cost_usd)} for {plural(tokens, 'token')}"
