"""Prices in the Python API: which price a model has and whose it is; set, listed and taken back."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from decimal import Decimal

from coordination.adapters import price_list
from coordination.base.clock import utc_now
from coordination.domain.money.pricing import PriceOverride, Quote
from coordination.runtime import Runtime
from coordination.services.money import prices
from coordination.services.projects import projects as project_service
from coordination.store.queries.money import prices as rows


class Prices:
    """What calls of models cost: ``co.prices``, in dollars for a million tokens.

    Projects are named as people name them; without one, it is all of the workspace. A project's price goes before the
    workspace's, and that before the list.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store, self._workspace_id = runtime.store, runtime.workspace_id

    def of(self, model: str, *, project: str | None = None) -> Quote | None:
        """The price that calls of *model* have now, and whose it is; None: it is unknown."""
        project_id = self._project(project)
        with self._store.read() as tx:
            book = prices.open_book(tx, self._workspace_id, price_list.quote)
        found = book.quote(model, project_id, utc_now())
        return found if isinstance(found, Quote) else None

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
        """Let calls of *model* cost this from now on; kinds without a price cost as input or output.

        The name is the one that stands in the ledger, provider included. Raises Refused for what is no price.
        """
        rates: Mapping[str, Decimal | str | float | None] = {
            "input": input,
            "output": output,
            "cached_input": cached_input,
            "cache_write": cache_write,
            "reasoning": reasoning,
        }
        said = {kind: None if rate is None else str(rate) for kind, rate in rates.items()}
        project_id, actor = self._project(project), self._runtime.actor
        return self._store.transact(
            lambda tx: prices.set_price(tx, self._workspace_id, model, said, project_id=project_id, actor=actor)
        )

    def list(self) -> builtins.list[PriceOverride]:
        """The prices that are set here; all other models have the price of the list."""
        with self._store.read() as tx:
            return [*rows.listed(tx, self._workspace_id)]

    def delete(self, model: str, *, project: str | None = None) -> None:
        """Forget a price that was set; what was priced by it stays as it is. NotFound when none was set there."""
        project_id = self._project(project)
        self._store.transact(lambda tx: prices.delete(tx, self._workspace_id, model, project_id=project_id))

    def _project(self, name: str | None) -> str | None:
        if name is None:
            return None
        with self._store.read() as tx:
            return project_service.find(tx, self._workspace_id, name).id
