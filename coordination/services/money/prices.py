"""Prices that people set: set and delete them, and open the price book that looks up all prices."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.money.pricing import (
    PriceBook,
    PriceList,
    PriceOverride,
    check_model_name,
    make_price_book,
    parse_price,
)
from coordination.store.queries.money import prices as rows


def set_price(
    tx: Connection,
    workspace_id: str,
    model: str,
    rates: Mapping[str, str | None],
    *,
    project_id: str | None = None,
    actor: str | None = None,
) -> PriceOverride:
    """Set the price of *model* in one project or in all. Raises Refused for an invalid price."""
    override = PriceOverride(check_model_name(model), parse_price(rates), project_id, actor)
    rows.put(tx, workspace_id, override)
    return override


def delete(tx: Connection, workspace_id: str, model: str, *, project_id: str | None = None) -> str:
    """Delete a price that was set, and return the model's name. Raises NotFound if none was set."""
    name = check_model_name(model)
    if not rows.remove(tx, workspace_id, name, project_id=project_id):
        known = [one.model for one in rows.list_prices(tx, workspace_id) if one.project_id == project_id]
        where = "" if project_id is None else " for this project"
        raise NotFound(
            f"No price of {excerpt(name)} is set{where}", hint=did_you_mean(name, known) or "See: coord prices list"
        )
    return name


def open_book(tx: Connection, workspace_id: str, price_list: PriceList) -> PriceBook:
    """Return the book of the workspace's prices on top of a price list."""
    return make_price_book(rows.list_prices(tx, workspace_id), price_list)
