"""Statements on the ledger's totals: add to them, find wrong ones, set the time zone of their days.

Writers do not wait for each other. On PostgreSQL, a writer locks the first free one of a few shards, or uses a shard of
its own session when all are locked. SQLite has one writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CTE, Connection, Float, Select, Text, cast, func, literal, literal_column, or_, select, text

from coordination.base.clock import DEFAULT_ZONE
from coordination.base.money import ZERO
from coordination.domain.money.cost_totals import DAY, DIMENSIONS, MONTH, CostTotal, TotalKey
from coordination.store.tables.money.costs import CALLS, UNPRICED, costs
from coordination.store.tables.money.rollups import ARCHIVED, rollups
from coordination.store.tables.projects.projects import workspaces
from coordination.store.tables.projects.retention import SUMS, chores
from coordination.store.types import Money, UtcTime, clean_text, db_now, local_day, minus_money, sum_money

c, r, w = costs.c, rollups.c, workspaces.c

_SHARDS = 8
_LOCK = 720_014_100  # the time zone; the locks of shards follow
_MEASURES = tuple(field.name for field in fields(CostTotal))
_COUNTS = _MEASURES[:-1]
_COLUMNS = ", ".join(("workspace_id", *TotalKey._fields, "shard", *_MEASURES))

# A shared lock, so that no writer uses a time zone that the workspace no longer has.
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


def lock_shard(tx: Connection, workspace_id: str) -> int:
    """Lock and return the shard to which this transaction adds. The time zone cannot change until it ends."""
    if tx.dialect.name == "sqlite":
        return 0
    return int(tx.execute(_BEGIN, {"ws": workspace_id}).one()[1])


def read_zone(tx: Connection, workspace_id: str) -> str:
    """Return the time zone of the workspace's days and months."""
    zone = func.coalesce(w.timezone, DEFAULT_ZONE)
    return tx.execute(select(zone).where(w.id == workspace_id)).scalar() or DEFAULT_ZONE


def days(tx: Connection, workspace_id: str, moments: Iterable[datetime]) -> dict[datetime, str]:
    """Return the workspace's day of each moment, as the database computes it."""
    distinct = list(dict.fromkeys(moments))
    name = read_zone(tx, workspace_id)
    if name == DEFAULT_ZONE:
        return {at: at.astimezone(UTC).date().isoformat() for at in distinct}
    if tx.dialect.name == "postgresql":
        statement = text(
            "SELECT m.at, to_char(timezone(:zone, m.at), 'YYYY-MM-DD') AS day "
            "FROM unnest(CAST(:moments AS timestamptz[])) AS m(at)"
        ).columns(at=UtcTime(), day=Text())
        rows = tx.execute(statement, {"zone": name, "moments": distinct})
        return {row[0]: row[1] for row in rows}
    process = UtcTime().bind_processor(tx.dialect)
    assert process is not None  # noqa: S101 - the type has one
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    return {at: driver.execute("SELECT local_day(?, ?)", (name, process(at))).fetchone()[0] for at in distinct}


def add(tx: Connection, workspace_id: str, sums: Mapping[TotalKey, CostTotal], *, shard: int) -> None:
    """Add amounts to the stored totals."""
    cleaned: dict[TotalKey, CostTotal] = {}
    for key, amounts in sums.items():
        cleaned.setdefault(TotalKey(*map(clean_text, key)), CostTotal()).merge(amounts)
    rows = [(*key, *astuple(total)) for key, total in sorted(cleaned.items())]
    if not rows:
        return
    if tx.dialect.name == "postgresql":
        columns = dict(zip((*TotalKey._fields, *_MEASURES), map(list, zip(*rows, strict=True)), strict=True))
        tx.execute(_ADD_PG, {"ws": workspace_id, "shard": shard, **columns})
        return
    many = [(workspace_id, *row[:5], shard, *row[5:-1], f"{row[-1]:f}") for row in rows]
    tx.exec_driver_sql(_ADD_SQLITE, many)


# --- check and repair


def is_complete(tx: Connection, workspace_id: str) -> bool:
    """Return whether the totals include every record. If not, only the ledger itself is right."""
    done = select(chores.c.done_at).where(chores.c.workspace_id == workspace_id, chores.c.name == SUMS)
    return tx.execute(done).scalar() is not None


def mark_incomplete(tx: Connection, workspace_id: str) -> None:
    """Mark the totals as incomplete until they are recounted."""
    tx.execute(chores.update().where(chores.c.workspace_id == workspace_id, chores.c.name == SUMS).values(done_at=None))


def set_zone(tx: Connection, workspace_id: str, name: str) -> None:
    """Set the time zone of days and months, after waiting for all writers that use the present one."""
    if tx.dialect.name == "postgresql":
        exclusive = text(f"SELECT pg_advisory_xact_lock(hashtext(CAST(:ws AS text)), {_LOCK})")
        tx.execute(exclusive, {"ws": workspace_id})
        # Fails if the database does not know the zone.
        tx.execute(text("SELECT timezone(:zone, now())"), {"zone": name})
    tx.execute(workspaces.update().where(w.id == workspace_id).values(timezone=name))
    mark_incomplete(tx, workspace_id)


def find_drift(tx: Connection, workspace_id: str, *, since: str | None = None) -> Iterator[tuple[TotalKey, CostTotal]]:
    """Yield what must be added to each wrong total to match the records.

    *since*: only for that day and later ones. Reads the whole ledger, or that part of it.
    """
    if tx.dialect.name == "postgresql" and since is None:
        # Reads a whole large table: sequentially, and with memory for the aggregation.
        tx.execute(text("SET LOCAL enable_seqscan = on"))
        tx.execute(text("SET LOCAL work_mem = '64MB'"))
    finest = _finest(workspace_id, read_zone(tx, workspace_id), None if since is None else _before(since))
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
        for dimension in DIMENSIONS
        for grain, starts in grains
    ]
    stored = [r.workspace_id == workspace_id, r.shard != ARCHIVED, r.dimension.in_(DIMENSIONS)]
    if since is not None:
        stored += [r.grain == DAY, r.starts >= since]
        parts = [part.where(finest.c.day >= since) for part in parts]
    negative = select(
        *(r[name] for name in TotalKey._fields), *((-r[name]).label(name) for name in _COUNTS), minus_money(r.cost_usd)
    ).where(*stored)
    both = parts[0].union_all(*parts[1:], negative).subquery("both")
    sums = [func.sum(both.c[name]).label(name) for name in _COUNTS]
    usd = sum_money(both.c.cost_usd)
    wrong = or_(*(func.sum(both.c[name]) != 0 for name in _COUNTS), cast(usd, Float) != 0)
    key = [both.c[name] for name in TotalKey._fields]
    statement = select(*key, *sums, usd.label("cost_usd")).group_by(*key).having(wrong).order_by(*key)
    with tx.execution_options(yield_per=1000).execute(statement) as rows:
        for row in rows:
            counts = {name: int(value) for name, value in zip(_COUNTS, row[5:-1], strict=True)}
            yield TotalKey(*row[:5]), CostTotal(cost_usd=row.cost_usd, **counts)


def _finest(workspace_id: str, zone: str, since: datetime | None) -> CTE:
    """Return the ledger aggregated by day and all dimensions."""
    day = local_day(literal(zone), c.occurred_at)
    columns = {"project": c.project_id, "session": c.session_id, "agent": c.agent_id, "model": c.model, "run": c.run_id}
    where = [c.workspace_id == workspace_id]
    if since is not None:
        where.append(c.occurred_at >= since)
    keys = [func.coalesce(cast(column, Text), literal_column("''")).label(name) for name, column in columns.items()]
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
        .group_by(literal_column("1"), *columns.values())
        .cte("finest")
    )


def _month(day: Any) -> Any:
    return func.substr(day, 1, func.length(day) - 3).op("||")(literal_column("'-01'"))


def _before(day: str) -> datetime:
    """Return a moment that precedes the day in every time zone."""
    return datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1)


def drop_empty(tx: Connection, workspace_id: str) -> int:
    """Delete totals of zero, which remain after a change of time zone, and return how many."""
    is_zero = *(r[name] == 0 for name in _COUNTS), cast(r.cost_usd, Float) == 0
    return tx.execute(rollups.delete().where(r.workspace_id == workspace_id, *is_zero)).rowcount


def merge_shards(tx: Connection, workspace_id: str, *, before: str) -> int:
    """Merge the shards of at most 1000 totals that start before that day, and return how many rows were deleted."""
    key = [r[name] for name in TotalKey._fields]
    spread = (
        select(*key)
        .where(r.workspace_id == workspace_id, r.starts < before, r.shard != ARCHIVED)
        .group_by(*key)
        .having(func.count() > 1)
        .order_by(*key)
        .limit(1000)
    )
    deleted = 0
    for row in tx.execute(spread).all():
        total_key = TotalKey(*row)
        mine = [r.workspace_id == workspace_id, *(r[name] == value for name, value in total_key._asdict().items())]
        rows = tx.execute(rollups.delete().where(*mine, r.shard > 0).returning(*(r[name] for name in _MEASURES))).all()
        whole = CostTotal()
        for shard_row in rows:
            whole.merge(CostTotal(*shard_row))
        add(tx, workspace_id, {total_key: whole}, shard=0)
        deleted += len(rows)
    return deleted


def today(tx: Connection, workspace_id: str) -> str:
    """Return the workspace's present day, by the database's clock."""
    now = tx.execute(select(db_now())).scalar_one()
    return days(tx, workspace_id, [now])[now]
