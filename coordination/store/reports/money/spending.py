"""Costs by project, session, model, run, agent, account, day or month, in the workspace's time zone.

Whole days are read from the totals, so that the time does not depend on the number of records. Ranges that start or end
within a day, and ledgers with incomplete totals, are aggregated from the records.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Float, Select, cast, func, literal, select, union_all

from coordination.base.money import ZERO
from coordination.domain.money.cost_totals import DAY, MONTH
from coordination.domain.money.date_ranges import DateRange
from coordination.store.queries.money import rollups as sums
from coordination.store.tables.access.principals import principals
from coordination.store.tables.money.costs import CALLS, CORRECTED, UNPRICED, costs
from coordination.store.tables.money.rollups import rollups
from coordination.store.tables.projects.projects import projects
from coordination.store.tables.tasks.runs import runs
from coordination.store.types import UtcTime, local_day, sum_money

c, r = costs.c, rollups.c

_ACCOUNT = "account"  # has no totals, because programs without accounts write to the ledger too
DIMENSIONS = ("project", "session", "model", "run", "agent", _ACCOUNT, DAY, MONTH)
ALWAYS = DateRange()
_COUNTS = ("calls", "input_tokens", "output_tokens", "cached_input_tokens", "total_tokens", "unpriced")


@dataclass(frozen=True, slots=True)
class Spending:
    """The costs of one group. ``key`` None: records without one. ``cost_usd``: of calls with a known price."""

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
    span: DateRange = ALWAYS,
    top: int | None = None,
) -> list[Spending]:
    """Return the groups of *by* (one of DIMENSIONS), most expensive first, at most *top*; days and months in order."""
    source = _source(tx, workspace_id, by, project_id, span)
    usd = func.coalesce(sum_money(source.c.cost_usd), literal(ZERO, r.cost_usd.type))
    measures = [func.sum(source.c[name]).label(name) for name in _COUNTS]
    statement = select(source.c.key, *measures, usd.label("cost_usd")).group_by(source.c.key)
    if top is not None:
        # Cast, because SQLite stores text.
        expensive_first = (cast(usd, Float).desc(), func.sum(source.c.calls).desc(), source.c.key)
        statement = statement.order_by(*expensive_first).limit(top)
    rows = tx.execute(statement).all()
    names = _names(tx, workspace_id, by, [row.key for row in rows if row.key])
    groups = [
        Spending(
            key=(names.get(row.key, row.key) if by == "agent" else row.key) or None,
            name=None if by == "agent" else names.get(row.key),
            **{name: int(getattr(row, name)) for name in _COUNTS if name != "unpriced"},
            cost_usd=row.cost_usd,
            unpriced_calls=max(0, int(row.unpriced)),
        )
        for row in rows
    ]
    if by in {DAY, MONTH} and top is None:
        return sorted(groups, key=lambda group: group.key or "")
    return sorted(groups, key=lambda group: (-group.cost_usd, -group.calls, group.key or ""))


def total(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, span: DateRange = ALWAYS
) -> tuple[Decimal, int, int]:
    """Return (dollars with a known price, calls, calls whose price is unknown)."""
    source = _source(tx, workspace_id, "project", project_id, span)
    columns = sum_money(source.c.cost_usd), func.sum(source.c.calls), func.sum(source.c.unpriced)
    usd, calls, unpriced = tx.execute(select(*columns)).one()
    return usd or ZERO, int(calls or 0), max(0, int(unpriced or 0))


def today(tx: Connection, workspace_id: str) -> dict[str | None, Spending]:
    """Return today's costs by project (None: records without one), by the database's clock."""
    day = datetime.fromisoformat(sums.today(tx, workspace_id)).date()
    groups = spending(tx, workspace_id, by="project", span=DateRange(day, day))
    return {group.key: group for group in groups}


@dataclass(frozen=True, slots=True)
class ZeroCost:
    """Calls of one model in one project that used tokens and were reported as free. ``at``: the time of the latest."""

    model: str
    project_id: str | None
    calls: int
    at: datetime


def zero_cost(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, span: DateRange = ALWAYS
) -> list[ZeroCost]:
    """Return the calls that were free and have no correction: some programs write 0 for an unknown price."""
    # Cast, because SQLite stores text, in which zero is 0 or 0.00.
    is_zero = cast(c.cost_usd, Float) == 0
    where = [*_recorded(tx, workspace_id, project_id, span), is_zero, c.corrects.is_(None), ~CORRECTED]
    where.append(c.input_tokens + c.output_tokens > 0)
    rows = tx.execute(
        select(c.model, c.project_id, func.count().label("calls"), func.max(c.occurred_at, type_=UtcTime).label("at"))
        .where(*where)
        .group_by(c.model, c.project_id)
        .order_by(c.model, c.project_id)
    )
    return [ZeroCost(row.model, row.project_id, row.calls, row.at) for row in rows]


def zero_cost_periods(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, span: DateRange = ALWAYS
) -> list[ZeroCost]:
    """Return the free calls by the totals: only of months and days in which all calls of a model and project were."""
    source = _sums(workspace_id, "model", project_id, span)
    calls = source.c.calls - source.c.unpriced
    is_free = (cast(source.c.cost_usd, Float) == 0, source.c.total_tokens > 0, calls > 0)
    group = source.c.key, source.c.project_id
    columns = func.sum(calls).label("calls"), func.max(source.c.starts).label("starts")
    rows = tx.execute(select(*group, *columns).where(*is_free).group_by(*group).order_by(*group))
    return [
        ZeroCost(
            row.key, row.project_id or None, int(row.calls), datetime.fromisoformat(f"{row.starts[:10]}T00:00:00+00:00")
        )
        for row in rows
    ]


def _source(tx: Connection, workspace_id: str, by: str, project_id: str | None, span: DateRange) -> Any:
    """Return a subquery of keys and amounts, from the totals if possible, otherwise from the records."""
    if by != _ACCOUNT and span.of_days and sums.is_complete(tx, workspace_id):
        return _sums(workspace_id, by, project_id, span)
    key = _recorded_key(tx, workspace_id, by)
    measures = {
        "calls": CALLS,
        "unpriced": UNPRICED,
        **{name: func.sum(c[name]) for name in _COUNTS if name.endswith("tokens")},
        "cost_usd": sum_money(c.cost_usd),
    }
    return (
        select(key.label("key"), *(measure.label(name) for name, measure in measures.items()))
        .where(*_recorded(tx, workspace_id, project_id, span))
        .group_by(key)
        .subquery("source")
    )


def _sums(workspace_id: str, by: str, project_id: str | None, span: DateRange) -> Any:
    dimension = "project" if by in {DAY, MONTH} else by
    key = {"project": r.project_id, DAY: r.starts, MONTH: func.substr(r.starts, 1, func.length(r.starts) - 3)}.get(by)
    parts: list[Select[Any]] = []
    for grain, first, last in [(DAY, span.first, span.last)] if by == DAY else span.parts():
        where = [r.workspace_id == workspace_id, r.dimension == dimension, r.grain == grain]
        if first is not None:
            where.append(r.starts >= first.isoformat())
        if last is not None:
            where.append(r.starts <= last.isoformat())
        if project_id is not None:
            where.append(r.project_id == project_id)
        of = [r[name] for name in (*_COUNTS, "cost_usd", "starts", "project_id")]
        parts.append(select((r.key if key is None else key).label("key"), *of).where(*where))
    return (parts[0] if len(parts) == 1 else union_all(*parts)).subquery("source")


def _recorded(tx: Connection, workspace_id: str, project_id: str | None, span: DateRange) -> list[Any]:
    where = [c.workspace_id == workspace_id]
    if project_id is not None:
        where.append(c.project_id == project_id)
    if span != ALWAYS:
        since, until = span.moments(sums.read_zone(tx, workspace_id))
        if since is not None:
            where.append(c.occurred_at >= since)
        if until is not None:
            where.append(c.occurred_at < until)
    return where


def _recorded_key(tx: Connection, workspace_id: str, by: str) -> Any:
    if by in {DAY, MONTH}:
        day = local_day(literal(sums.read_zone(tx, workspace_id)), c.occurred_at)
        return day if by == DAY else func.substr(day, 1, func.length(day) - 3)
    return c[by if by in {"model", _ACCOUNT} else f"{by}_id"]


def _names(tx: Connection, workspace_id: str, by: str, keys: list[str]) -> dict[str, str]:
    table = {"project": projects, "run": runs, "agent": principals}.get(by)
    if table is None or not keys:
        return {}
    names: dict[str, str] = {}
    for start in range(0, len(keys), 5000):
        mine = table.c.workspace_id == workspace_id, table.c.id.in_(keys[start : start + 5000])
        names |= {row.id: row.name for row in tx.execute(select(table.c.id, table.c.name).where(*mine))}
    return names
