"""Statements on the ledger's sums: add to them, say what of them is wrong, and in which zone their days begin.

Nobody waits for another writer. PostgreSQL: who writes takes the first of a few shards that no other transaction has,
and one of its own session's when all are taken. SQLite has one writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CTE,
    Connection,
    Float,
    Select,
    Text,
    and_,
    cast,
    delete,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    union_all,
    update,
)

from coordination.base.calendars import DEFAULT
from coordination.base.money import ZERO
from coordination.domain.money.cost_totals import DAY, DIMENSIONS, MONTH, CostTotal, TotalKey
from coordination.store.tables.money.costs import CALLS, UNPRICED, costs
from coordination.store.tables.money.rollups import ARCHIVED, rollups
from coordination.store.tables.projects.projects import workspaces
from coordination.store.tables.projects.retention import SUMS, chores
from coordination.store.types import Money, UtcTime, clean_text, db_now, local_day, minus_money, sum_money

c, r, w = costs.c, rollups.c, workspaces.c

_SHARDS = 8
_LOCK = 720_014_100  # the calendar; the shards are those after it
_MEASURES = tuple(field.name for field in fields(CostTotal))
_COUNTS = _MEASURES[:-1]
_COLUMNS = ", ".join(("workspace_id", *TotalKey._fields, "shard", *_MEASURES))

# Shared by writers, so that none of them counts by the days of a zone that is no longer the workspace's.
_BEGIN = text(
    f"SELECT pg_advisory_xact_lock_shared(hashtext(CAST(:ws AS text)), {_LOCK}), CASE "
    + " ".join(
        f"WHEN pg_try_advisory_xact_lock(hashtext(CAST(:ws AS text)), {_LOCK + 1 + shard}) THEN {shard}"
        for shard in range(_SHARDS)
    )
    + f" ELSE {_SHARDS} + pg_backend_pid() END"
)
_ADDED = ", ".join(f"{name} = rollups.{name} + excluded.{name}" for name in _MEASURES)
_ADD_PG = text(
    f"INSERT INTO rollups ({_COLUMNS}) SELECT CAST(:ws AS uuid), n.dimension, n.grain, n.starts, n.key, n.project_id, "  # noqa: S608 - names of our own columns
    f":shard, {', '.join(f'n.{name}' for name in _MEASURES)} FROM unnest("
    + ", ".join(f"CAST(:{name} AS text[])" for name in TotalKey._fields)
    + ", "
    + ", ".join(f"CAST(:{name} AS {'numeric' if name == 'cost_usd' else 'bigint'}[])" for name in _MEASURES)
    + f") AS n({', '.join((*TotalKey._fields, *_MEASURES))}) ORDER BY 2, 3, 4, 5, 6 "
    f"ON CONFLICT (workspace_id, dimension, grain, starts, key, project_id, shard) DO UPDATE SET {_ADDED}"
)
_ADD_SQLITE = (
    f"INSERT INTO rollups ({_COLUMNS}) VALUES ({', '.join('?' * (len(TotalKey._fields) + len(_MEASURES) + 2))}) "  # noqa: S608
    "ON CONFLICT (workspace_id, dimension, grain, starts, key, project_id, shard) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTS)
    + ", cost_usd = add_money(cost_usd, excluded.cost_usd)"
)


def begin(tx: Connection, workspace_id: str) -> int:
    """Which shard this transaction adds to; the workspace's zone stays as it is until it ends."""
    if tx.dialect.name == "sqlite":
        return 0
    return int(tx.execute(_BEGIN, {"ws": workspace_id}).one()[1])


def zone(tx: Connection, workspace_id: str) -> str:
    """Where the workspace's days and months begin."""
    return tx.execute(select(func.coalesce(w.timezone, DEFAULT)).where(w.id == workspace_id)).scalar() or DEFAULT


def days(tx: Connection, workspace_id: str, moments: Iterable[datetime]) -> dict[datetime, str]:
    """The workspace's day of each moment, as the database reckons it."""
    found = list(dict.fromkeys(moments))
    here = zone(tx, workspace_id)
    if here == DEFAULT:
        return {at: at.astimezone(UTC).date().isoformat() for at in found}
    if tx.dialect.name == "postgresql":
        statement = text(
            "SELECT m.at, to_char(timezone(:zone, m.at), 'YYYY-MM-DD') AS day "
            "FROM unnest(CAST(:moments AS timestamptz[])) AS m(at)"
        ).columns(at=UtcTime(), day=Text())
        rows = tx.execute(statement, {"zone": here, "moments": found})
        return {row[0]: row[1] for row in rows}
    process = UtcTime().bind_processor(tx.dialect)
    assert process is not None  # noqa: S101 - the type has one
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    return {at: driver.execute("SELECT local_day(?, ?)", (here, process(at))).fetchone()[0] for at in found}


def add(tx: Connection, workspace_id: str, sums: Mapping[TotalKey, CostTotal], *, shard: int) -> None:
    """Add these to what is there."""
    cleaned: dict[TotalKey, CostTotal] = {}
    for cell, one in sums.items():
        cleaned.setdefault(TotalKey(*map(clean_text, cell)), CostTotal()).join(one)
    rows = [(*cell, *astuple(one)) for cell, one in sorted(cleaned.items())]
    if not rows:
        return
    if tx.dialect.name == "postgresql":
        columns = dict(zip((*TotalKey._fields, *_MEASURES), map(list, zip(*rows, strict=True)), strict=True))
        tx.execute(_ADD_PG, {"ws": workspace_id, "shard": shard, **columns})
        return
    many = [(workspace_id, *row[:5], shard, *row[5:-1], f"{row[-1]:f}") for row in rows]
    tx.exec_driver_sql(_ADD_SQLITE, many)


# --- are they right?


def complete(tx: Connection, workspace_id: str) -> bool:
    """Whether every record was counted once; before, only the ledger itself can tell."""
    done = select(chores.c.done_at).where(chores.c.workspace_id == workspace_id, chores.c.name == SUMS)
    return tx.execute(done).scalar() is not None


def forget_done(tx: Connection, workspace_id: str) -> None:
    """From now on they are not complete, until they have been counted anew."""
    tx.execute(update(chores).where(chores.c.workspace_id == workspace_id, chores.c.name == SUMS).values(done_at=None))


def set_zone(tx: Connection, workspace_id: str, name: str) -> None:
    """Let days and months begin there. Every writer that reckoned by another zone has ended by then."""
    if tx.dialect.name == "postgresql":
        exclusive = text(f"SELECT pg_advisory_xact_lock(hashtext(CAST(:ws AS text)), {_LOCK})")
        tx.execute(exclusive, {"ws": workspace_id})
        tx.execute(text("SELECT timezone(:zone, now())"), {"zone": name})  # refused here, if it does not know it
    tx.execute(update(workspaces).where(w.id == workspace_id).values(timezone=name))
    forget_done(tx, workspace_id)


def drift(
    tx: Connection, workspace_id: str, *, since: str | None = None, dimensions: Sequence[str] = DIMENSIONS
) -> Iterator[tuple[TotalKey, CostTotal]]:
    """What has to be added to which sum so that it is that of the records; nothing when all are right. Streamed.

    *since*: only of that day and later ones. Reads the whole ledger, or that part of it.
    """
    if tx.dialect.name == "postgresql" and since is None:
        # All of a large table: in the order of the disk, and with memory to add up in.
        tx.execute(text("SET LOCAL enable_seqscan = on"))
        tx.execute(text("SET LOCAL work_mem = '64MB'"))
    finest = _finest(workspace_id, zone(tx, workspace_id), None if since is None else _before(since))
    grains = ((DAY, finest.c.day), (MONTH, _month(finest.c.day))) if since is None else ((DAY, finest.c.day),)
    parts: list[Select[Any]] = [
        select(
            literal(dimension).label("dimension"),
            literal(grain).label("grain"),
            starts.label("starts"),
            (literal("") if dimension == "project" else finest.c[dimension]).label("key"),
            finest.c.project.label("project_id"),
            *(finest.c[name] for name in _MEASURES),
        )
        for dimension in dimensions
        for grain, starts in grains
    ]
    kept = [r.workspace_id == workspace_id, r.shard != ARCHIVED, r.dimension.in_(dimensions)]
    if since is not None:
        kept += [r.grain == DAY, r.starts >= since]
        parts = [part.where(finest.c.day >= since) for part in parts]
    there = select(
        *(r[name] for name in TotalKey._fields), *((-r[name]).label(name) for name in _COUNTS), minus_money(r.cost_usd)
    ).where(*kept)
    both = union_all(*parts, there).subquery("both")
    sums = [func.sum(both.c[name]).label(name) for name in _COUNTS]
    usd = sum_money(both.c.cost_usd)
    wrong = or_(*(func.sum(both.c[name]) != 0 for name in _COUNTS), cast(usd, Float) != 0)
    place = [both.c[name] for name in TotalKey._fields]
    statement = select(*place, *sums, usd.label("cost_usd")).group_by(*place).having(wrong).order_by(*place)
    with tx.execution_options(yield_per=1000).execute(statement) as rows:
        for row in rows:
            counts = {name: int(value) for name, value in zip(_COUNTS, row[5:-1], strict=True)}
            yield TotalKey(*row[:5]), CostTotal(cost_usd=row.cost_usd, **counts)


def _finest(workspace_id: str, here: str, since: datetime | None) -> CTE:
    """The ledger added up by everything that sums are of."""
    day = local_day(literal(here), c.occurred_at)
    named = {"project": c.project_id, "session": c.session_id, "agent": c.agent_id, "model": c.model, "run": c.run_id}
    where = [c.workspace_id == workspace_id]
    if since is not None:
        where.append(c.occurred_at >= since)
    keys = [func.coalesce(cast(column, Text), literal_column("''")).label(name) for name, column in named.items()]
    return (
        select(
            day.label("day"),
            *keys,
            CALLS.label("calls"),
            UNPRICED.label("unpriced"),
            *(func.sum(c[name]).label(name) for name in _COUNTS[2:]),
            func.coalesce(sum_money(c.cost_usd), literal(ZERO, Money())).label("cost_usd"),
        )
        .where(*where)
        .group_by(literal_column("1"), *named.values())
        .cte("finest")
    )


def _month(day: Any) -> Any:
    return func.substr(day, 1, func.length(day) - 3).op("||")(literal_column("'-01'"))


def _before(day: str) -> datetime:
    """A moment that is before the day's begin wherever it is."""
    from datetime import timedelta

    return datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1)


def drop_empty(tx: Connection, workspace_id: str) -> int:
    """Delete sums of nothing, which are left where days or months have become others; how many."""
    nothing = and_(*(r[name] == 0 for name in _COUNTS), cast(r.cost_usd, Float) == 0)
    return tx.execute(delete(rollups).where(r.workspace_id == workspace_id, nothing)).rowcount


def fold(tx: Connection, workspace_id: str, *, before: str, limit: int = 1000) -> int:
    """Join the shards of sums that begin before that day, at most *limit* rows of them; how many rows went."""
    key = [r[name] for name in TotalKey._fields]
    spread = (
        select(*key)
        .where(r.workspace_id == workspace_id, r.starts < before, r.shard != ARCHIVED)
        .group_by(*key)
        .having(func.count() > 1)
        .order_by(*key)
        .limit(limit)
    )
    gone = 0
    for row in tx.execute(spread).all():
        cell = TotalKey(*row)
        mine = [r.workspace_id == workspace_id, *(r[name] == value for name, value in cell._asdict().items())]
        taken = tx.execute(delete(rollups).where(*mine, r.shard > 0).returning(*(r[name] for name in _MEASURES))).all()
        whole = CostTotal()
        for one in taken:
            whole.join(CostTotal(*one))
        add(tx, workspace_id, {cell: whole}, shard=0)
        gone += len(taken)
    return gone


def today(tx: Connection, workspace_id: str) -> str:
    """The workspace's day, by the database's clock."""
    now = tx.execute(select(db_now())).scalar_one()
    return days(tx, workspace_id, [now])[now]
