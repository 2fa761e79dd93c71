"""Prices that people set: set, taken back, and the book in which all prices are looked up."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.money.pricing import Listed, PriceBook, PriceOverride, book, checked_model, checked_price
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
    """Let calls of *model* cost this, in one project or in all; Refused for what is no price."""
    made = PriceOverride(checked_model(model), checked_price(rates), project_id, actor)
    rows.put(tx, workspace_id, made)
    return made


def delete(tx: Connection, workspace_id: str, model: str, *, project_id: str | None = None) -> str:
    """Forget a price that was set; the model's name. NotFound when none was set there."""
    name = checked_model(model)
    if not rows.remove(tx, workspace_id, name, project_id=project_id):
        known = [one.model for one in rows.listed(tx, workspace_id) if one.project_id == project_id]
        where = "" if project_id is None else " for this project"
        raise NotFound(
            f"No price of {excerpt(name)} is set{where}", hint=did_you_mean(name, known) or "See: coord prices list"
        )
    return name


def open_book(tx: Connection, workspace_id: str, listed: Listed) -> PriceBook:
    """What is set in the workspace, over a list."""
    return book(rows.listed(tx, workspace_id), listed)
