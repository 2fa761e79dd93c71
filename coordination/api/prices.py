"""Prices in the Python API: look up, set, list and delete prices of models."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from decimal import Decimal

from coordination.adapters import price_list
from coordination.api.names import find_project
from coordination.base.clock import utc_now
from coordination.domain.money.pricing import PriceOverride, Quote, UnknownPrice
from coordination.runtime import Runtime
from coordination.services.money import prices
from coordination.store.queries.money import prices as rows
from coordination.store.queries.projects import projects


class Prices:
    """The prices of models in dollars per million tokens: ``co.prices``.

    A project's price has precedence over the workspace's, and that over the included list.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store, self._workspace_id = runtime.store, runtime.workspace_id

    def of(self, model: str, *, project: str | None = None) -> Quote | None:
        """Return the present price of *model*'s calls and its source; None: it is unknown."""
        quote = self.look_up(model, project=project)
        return quote if isinstance(quote, Quote) else None

    def look_up(self, model: str, *, project: str | None = None) -> Quote | UnknownPrice:
        """Return the same, or why the price is unknown."""
        project_id = self._project(project)
        with self._store.read() as tx:
            book = prices.open_book(tx, self._workspace_id, price_list.quote)
        return book.quote(model, project_id, utc_now())

    def set(
        self,
        model: str,
        *,
        input: Decimal | str | float,  # noqa: A002 - the kind's own name
        output: Decimal | str | float,
        cached_input: Decimal | str | float | None = None,
        cache_write: Decimal | str | float | None = None,
        reasoning: Decimal | str | float | None = None,
        project: str | None = None,
    ) -> PriceOverride:
        """Set the price of *model* for calls from now on; kinds without a price cost as input or output.

        The name is that in the ledger, provider included. Raises Refused for an invalid price.
        """
        rates: Mapping[str, Decimal | str | float | None] = {
            "input": input,
            "output": output,
            "cached_input": cached_input,
            "cache_write": cache_write,
            "reasoning": reasoning,
        }
        texts = {kind: None if rate is None else str(rate) for kind, rate in rates.items()}
        project_id, actor = self._project(project), self._runtime.actor
        return self._store.transact(
            lambda tx: prices.set_price(tx, self._workspace_id, model, texts, project_id=project_id, actor=actor)
        )

    def list(self) -> builtins.list[PriceOverride]:
        """Return the prices that were set; all other models have the price of the included list."""
        with self._store.read() as tx:
            return [*rows.list_prices(tx, self._workspace_id)]

    def list_with_projects(self) -> builtins.list[tuple[PriceOverride, str | None]]:
        """Return the prices that were set, each with the name of the project for which it is; None: all."""
        with self._store.read() as tx:
            overrides = rows.list_prices(tx, self._workspace_id)
            ids = {one.project_id for one in overrides if one.project_id is not None}
            names = projects.names_of(tx, self._workspace_id, ids)
        return [(one, names.get(one.project_id or "")) for one in overrides]

    def delete(self, model: str, *, project: str | None = None) -> str:
        """Delete a price that was set, and return the model's name. Raises NotFound if none was set."""
        project_id = self._project(project)
        return self._store.transact(lambda tx: prices.delete(tx, self._workspace_id, model, project_id=project_id))

    def _project(self, name: str | None) -> str | None:
        return None if name is None else find_project(self._runtime, name).id
