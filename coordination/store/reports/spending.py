"""Where the money went: the ledger added up by project, session, model, run, agent or day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Float, Text, cast, func, select

from coordination.store.tables.costs import CALLS, CORRECTED, UNPRICED, costs
from coordination.store.tables.projects import projects
from coordination.store.tables.runs import runs
from coordination.store.types import UtcTime, db_now, sum_money

c = costs.c

DIMENSIONS = ("project", "session", "model", "run", "agent", "day")


@dataclass(frozen=True, slots=True)
class Spending:
    """One group. ``key`` None: records that name no such thing. ``cost_usd``: of calls with a known price."""

    key: str | None
    name: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    total_tokens: int
    cost_usd: Decimal
    unpriced_calls: int


def spending(
    tx: Connection,
    workspace_id: str,
    *,
    by: str,
    project_id: str | None = None,
    since: datetime | None = None,
) -> list[Spending]:
    """The groups of *by* (one of DIMENSIONS), the dearest first; days in their order."""
    key = _key(tx, by)
    where: list[Any] = [c.workspace_id == workspace_id]
    if project_id is not None:
        where.append(c.project_id == project_id)
    if since is not None:
        where.append(c.occurred_at >= since)
    rows = tx.execute(
        select(
            key.label("key"),
            CALLS.label("calls"),
            func.sum(c.input_tokens).label("input"),
            func.sum(c.output_tokens).label("output"),
            func.sum(c.cached_input_tokens).label("cached"),
            func.sum(c.total_tokens).label("total"),
            sum_money(c.cost_usd).label("usd"),
            UNPRICED.label("unpriced"),
        )
        .where(*where)
        .group_by(key)
    ).all()
    names = _names(tx, workspace_id, by, [row.key for row in rows if row.key is not None])
    found = [
        Spending(
            key=row.key,
            name=names.get(row.key) if row.key else None,
            calls=row.calls,
            input_tokens=int(row.input),
            output_tokens=int(row.output),
            cached_input_tokens=int(row.cached),
            total_tokens=int(row.total),
            cost_usd=row.usd or Decimal(0),
            unpriced_calls=max(0, row.unpriced),
        )
        for row in rows
    ]
    if by == "day":
        return sorted(found, key=lambda group: group.key or "")
    return sorted(found, key=lambda group: (-group.cost_usd, -group.calls, group.key or ""))


@dataclass(frozen=True, slots=True)
class Today:
    """What one project spent since midnight UTC."""

    cost_usd: Decimal
    unpriced_calls: int


def today(tx: Connection, workspace_id: str) -> dict[str | None, Today]:
    """By project (None: records that name none), since midnight UTC by the database's clock."""
    now: datetime = tx.execute(select(db_now())).scalar_one()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    rows = tx.execute(
        select(
            c.project_id,
            sum_money(c.cost_usd).label("usd"),
            UNPRICED.label("unpriced"),
        )
        .where(c.workspace_id == workspace_id, c.occurred_at >= midnight)
        .group_by(c.project_id)
    )
    return {row.project_id: Today(row.usd or Decimal(0), max(0, row.unpriced)) for row in rows}


@dataclass(frozen=True, slots=True)
class ZeroCost:
    """Calls of one model in one project that used tokens and are said to have cost nothing. ``at``: the latest."""

    model: str
    project_id: str | None
    calls: int
    at: datetime


def zero_cost(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, since: datetime | None = None
) -> list[ZeroCost]:
    """Such calls by model and project, those without a correction: programs that do not know a price write 0."""
    # As a number: SQLite keeps the text, in which nothing is 0 as well as 0.00.
    nothing = cast(c.cost_usd, Float) == 0
    where: list[Any] = [c.workspace_id == workspace_id, nothing, c.corrects.is_(None), ~CORRECTED]
    where.append(c.input_tokens + c.output_tokens > 0)
    if project_id is not None:
        where.append(c.project_id == project_id)
    if since is not None:
        where.append(c.occurred_at >= since)
    rows = tx.execute(
        select(c.model, c.project_id, func.count().label("calls"), func.max(c.occurred_at, type_=UtcTime).label("at"))
        .where(*where)
        .group_by(c.model, c.project_id)
        .order_by(c.model, c.project_id)
    )
    return [ZeroCost(row.model, row.project_id, row.calls, row.at) for row in rows]


def _key(tx: Connection, by: str) -> Any:
    if by == "day":
        # In UTC on both: SQLite keeps UTC as text, PostgreSQL is asked for it.
        moment = func.timezone("UTC", c.occurred_at) if tx.dialect.name == "postgresql" else c.occurred_at
        return func.substr(cast(moment, Text), 1, 10)
    return {"project": c.project_id, "session": c.session_id, "model": c.model, "run": c.run_id, "agent": c.agent}[by]


def _names(tx: Connection, workspace_id: str, by: str, keys: list[str]) -> dict[str, str]:
    table = {"project": projects, "run": runs}.get(by)
    if table is None or not keys:
        return {}
    rows = tx.execute(
        select(table.c.id, table.c.name).where(table.c.workspace_id == workspace_id, table.c.id.in_(keys))
    )
    return {row.id: row.name for row in rows}
