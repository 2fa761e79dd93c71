"""Statements on the prices that people set."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, delete, select, text

from coordination.base.ids import new_id
from coordination.domain.money.pricing import Price, PriceOverride, Rate
from coordination.store.driver import insert_into
from coordination.store.queries.access.principals import id_or_none, text_of
from coordination.store.tables.money.prices import OF_ALL, OF_ONE, prices
from coordination.store.types import db_now

p = prices.c

RATES = ("input", "output", "cached_input", "cache_write", "reasoning")
"""The kinds of tokens for which a price can be set."""


def put(tx: Connection, workspace_id: str, override: PriceOverride) -> None:
    """Store a price, replacing the one of the same model and project."""
    values: dict[str, Any] = {kind: _usd(getattr(override.price, kind)) for kind in RATES}
    values |= {"set_by": id_or_none(tx, workspace_id, override.set_by), "set_at": db_now()}
    for_all = override.project_id is None
    key = ["workspace_id", "model"] if for_all else ["workspace_id", "project_id", "model"]
    statement = insert_into(tx, prices).values(
        id=new_id(), workspace_id=workspace_id, project_id=override.project_id, model=override.model, **values
    )
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=key, index_where=text(OF_ALL if for_all else OF_ONE), set_=values
        )
    )


def remove(tx: Connection, workspace_id: str, model: str, *, project_id: str | None = None) -> bool:
    """Delete the price of *model* in a project or the workspace, and return whether it existed."""
    scope = p.project_id.is_(None) if project_id is None else p.project_id == project_id
    return tx.execute(delete(prices).where(p.workspace_id == workspace_id, scope, p.model == model)).rowcount > 0


def list_prices(tx: Connection, workspace_id: str) -> list[PriceOverride]:
    """Return all prices of the workspace by model, that of the whole workspace before those of projects."""
    order = (p.model, p.project_id.is_not(None), p.project_id)
    rows = tx.execute(
        select(prices, text_of(p.set_by).label("setter")).where(p.workspace_id == workspace_id).order_by(*order)
    ).mappings()
    return [_override(row) for row in rows]


def _usd(rate: Rate | None) -> Any:
    return None if rate is None else rate.usd


def _override(row: RowMapping) -> PriceOverride:
    rates: dict[str, Any] = {kind: Rate(row[kind]) for kind in RATES if row[kind] is not None}
    return PriceOverride(row["model"], Price(**rates), row["project_id"], row["setter"], row["set_at"])
