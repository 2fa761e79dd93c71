"""Compute the cost of model calls that were reported without one. Never fails a job or delays others.

The price list and the prices that people set are loaded when the first such call is recorded. A call that cannot be
priced is recorded without a price and can be priced later.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import structlog

from coordination.adapters import price_list
from coordination.base.clock import monotonic, utc_now
from coordination.domain.money.pricing import PriceBook, PricedCall, Quote, UnknownPrice, make_price_book
from coordination.domain.tasks.attempts import AttemptIdentity, Usage
from coordination.services.forecast.cost_estimates import make_estimator
from coordination.store.engine import Store
from coordination.store.queries.money import prices

log = structlog.get_logger()

_FRESH = 1.0
_REMEMBERED = 1_000


class UsagePrices:
    """Price books of this process's workspaces, at most a second old, and an estimator that uses them. Thread-safe."""

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
