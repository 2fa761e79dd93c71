"""What a worker knows of prices: the cost of calls whose job did not tell one. It never fails a job, nor delays others.

The list is loaded, and the prices that people set are read, when the first such call is to be recorded. A call that
cannot be priced then, for whatever reason, is recorded without a price, and can be priced later.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import structlog

from coordination.adapters import price_list
from coordination.base.clock import monotonic, utc_now
from coordination.domain.money.pricing import PriceBook, PricedCall, Quote, UnknownPrice, book
from coordination.domain.tasks.attempts import Spender, Usage
from coordination.services.forecast.cost_estimates import estimator
from coordination.store.engine import Store
from coordination.store.queries.money import prices

log = structlog.get_logger()

_FRESH = 1.0
_REMEMBERED = 1_000


class UsagePrices:
    """The price book of each workspace that this process works for, at most a second old. Thread-safe.

    ``estimator``: what tasks are expected to cost, by these prices too.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.estimator = estimator(self.quote, fresh=timedelta(seconds=_FRESH))
        self._books: dict[str, tuple[float, PriceBook]] = {}

    def one(self, claim: Spender, used: Usage) -> Usage:
        """One call's usage, with a cost where it has none and there is a price; what a job told stays as it told it."""
        if used.cost_usd is not None:
            return used
        try:
            found = self._book(claim.workspace_id).priced(used, claim.project_id, used.at or utc_now())
        except Exception:
            # A bulkhead: what a job has done counts, whatever is the matter with the price of it.
            log.exception("a call is recorded without a price", task=claim.key, model=used.model)
            return used
        if not isinstance(found, PricedCall):
            return used
        return replace(used, cost_usd=found.usd, extra={**used.extra, **found.note})

    def quote(self, workspace_id: str, project_id: str, model: str) -> Quote | UnknownPrice:
        """What a model costs now; Unknown, too, when that cannot be found out."""
        try:
            return self._book(workspace_id).quote(model, project_id, utc_now())
        except Exception:
            log.exception("a price could not be looked up", model=model)  # a bulkhead, as below
            return UnknownPrice("the prices could not be looked up")

    def _book(self, workspace_id: str) -> PriceBook:
        with self._lock:
            known = self._books.get(workspace_id)
        if known is not None and monotonic() - known[0] < _FRESH:
            return known[1]
        asked = monotonic()
        with self._store.read() as tx:
            found = book(prices.listed(tx, workspace_id), price_list.quote)
        with self._lock:
            if len(self._books) >= _REMEMBERED:
                self._books.clear()
            self._books[workspace_id] = (asked, found)
        return found
