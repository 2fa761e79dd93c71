"""Prices in the Python API: look up, set, list and delete prices of models."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from decimal import Decimal

from coordination.adapters import price_list
from coordination.api.names import find_project_id
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

    def of(self, model: str, *, project: str | None = None) -> Quote | None:
        """Return the present price of *model*'s calls and its source; None: it is unknown."""
        quote = self.look_up(model, project=project)
        return quote if isinstance(quote, Quote) else None

    def look_up(self, model: str, *, project: str | None = None) -> Quote | UnknownPrice:
        """Return the same, or why the price is unknown."""
        project_id = find_project_id(self._runtime, project)
        return self._runtime.read(prices.open_book, price_list.quote).quote(model, project_id, utc_now())

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
        runtime, project_id = self._runtime, find_project_id(self._runtime, project)
        return runtime.transact(prices.set_price, model, texts, project_id=project_id, actor=runtime.actor)

    def list(self) -> builtins.list[PriceOverride]:
        """Return the prices that were set; all other models have the price of the included list."""
        return [*self._runtime.read(rows.list_prices)]

    def list_with_projects(self) -> builtins.list[tuple[PriceOverride, str | None]]:
        """Return the prices that were set, each with the name of the project for which it is; None: all."""
        workspace_id = self._runtime.workspace_id
        with self._runtime.store.read() as tx:  # one transaction: a project without a name would look like all of them
            overrides = rows.list_prices(tx, workspace_id)
            names = projects.names_of(tx, workspace_id, {each.project_id for each in overrides if each.project_id})
        return [(override, names.get(override.project_id or "")) for override in overrides]

    def delete(self, model: str, *, project: str | None = None) -> str:
        """Delete a price that was set, and return the model's name. Raises NotFound if none was set."""
        project_id = find_project_id(self._runtime, project)
        return self._runtime.transact(prices.delete, model, project_id=project_id)
