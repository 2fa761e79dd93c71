"""Statements on the cost ledger: append and read. No UPDATE exists here, and the database refuses one.

Sums take corrections into account: the dollars are those of all rows, the calls are the rows that correct none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal
from functools import reduce
from operator import attrgetter
from typing import Any

from sqlalchemy import JSON, Connection, RowMapping, Text, cast, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.base.money import plus
from coordination.domain.money.costs import CostRecord, again_id
from coordination.store.bulk import insert_new
from coordination.store.queries.access.principals import agent_ids, name_of
from coordination.store.tables.money.costs import CALLS, CORRECTED, UNPRICED, costs
from coordination.store.types import sum_money

c = costs.c

_MANY = 1000
_MOST_AGAIN = 50
_FIELDS = tuple(field.name for field in fields(CostRecord) if field.name != "agent")  # which has its agent_id
_COLUMNS = ("workspace_id", *_FIELDS)
_values = attrgetter(*_FIELDS)

Billed = tuple[str, int, int, int, int, Decimal | None]


SELECT_COSTS = select(costs, name_of(c.agent_id).label("agent"))
"""The records, with the names of their agents: what ``record_of`` reads."""


def with_agents(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Return the records with the ids of the agents that they name; agents that are new are stored."""
    names = {record.agent for record in records if record.agent is not None and record.agent_id is None}
    if not names:
        return list(records)
    ids = agent_ids(tx, workspace_id, names)
    return [
        record if record.agent is None or record.agent_id is not None else replace(record, agent_id=ids[record.agent])
        for record in records
    ]


def append(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Write records; those that were new, in their order. One whose id is already there is left alone."""
    first: dict[str, CostRecord] = {}
    for record in records:
        first.setdefault(record.id, record)
    if not first:
        return []
    ordered = sorted(first.values(), key=attrgetter("id"))  # who writes the same ones waits for them in this order
    if tx.dialect.name == "postgresql" and len(first) >= _MANY:
        columns = zip(*map(_values, ordered), strict=True)
        values = {"workspace_id": [workspace_id] * len(first)} | dict(zip(_FIELDS, columns, strict=True))
        new = insert_new(tx, costs, values, now="recorded_at", returning="id")
    else:
        rows = [dict(zip(_COLUMNS, (workspace_id, *_values(record)), strict=True)) for record in ordered]
        make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
        # One statement for any number of rows, so that it is compiled once; PostgreSQL's driver counts none itself.
        statement = make(costs).on_conflict_do_nothing().returning(c.id)
        new = set(tx.execute(statement, rows).scalars())
    return [record for record in first.values() if record.id in new]


def billed(tx: Connection, workspace_id: str, names: Sequence[str]) -> dict[str, Billed]:
    """What the records of these ids say was used, and what it cost."""
    among: Any = c.id.in_(names)
    if tx.dialect.name == "postgresql":  # its driver takes its time over a list of very many
        among = c.id.in_(select(func.json_array_elements_text(cast(literal(json.dumps(names), Text()), JSON))))
    columns = (c.model, c.input_tokens, c.output_tokens, c.cached_input_tokens, c.total_tokens, c.cost_usd)
    rows = tx.execute(select(c.id, *columns).where(c.workspace_id == workspace_id, among))
    return {row[0]: tuple(row[1:]) for row in rows}


def billed_in_all(tx: Connection, workspace_id: str, name: str) -> Billed | None:
    """The same of one call and what was added to it because its job reported it again with a larger amount."""
    found = named(tx, workspace_id, [name, *(again_id(name, number) for number in range(2, _MOST_AGAIN))])
    first = found.pop(name, None)
    if first is None:
        return None
    every = [first, *(one for one in found.values() if (one.task_id, one.attempt) == (first.task_id, first.attempt))]
    known = [one.cost_usd for one in every if one.cost_usd is not None]
    return (
        first.model,
        sum(one.input_tokens for one in every),
        sum(one.output_tokens for one in every),
        sum(one.cached_input_tokens for one in every),
        sum(one.total_tokens for one in every),
        reduce(plus, known) if known else None,
    )


def total(
    tx: Connection,
    workspace_id: str,
    *,
    run_id: str | None = None,
    project_id: str | None = None,
    task_id: str | None = None,
    session_id: str | None = None,
    since: datetime | None = None,
) -> tuple[Decimal, int, int]:
    """(dollars with a known price, calls, calls whose price is unknown), of what is asked for."""
    where = [c.workspace_id == workspace_id]
    for column, value in (
        (c.run_id, run_id),
        (c.project_id, project_id),
        (c.task_id, task_id),
        (c.session_id, session_id),
    ):
        if value is not None:
            where.append(column == value)
    if since is not None:
        where.append(c.occurred_at >= since)
    row = tx.execute(
        select(sum_money(c.cost_usd).label("usd"), CALLS.label("calls"), UNPRICED.label("unpriced")).where(*where)
    ).one()
    return row.usd or Decimal(0), row.calls, max(0, row.unpriced)


def each(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, run_id: str | None = None
) -> Iterator[CostRecord]:
    """The ledger, oldest first, streamed."""
    where = [c.workspace_id == workspace_id]
    if project_id is not None:
        where.append(c.project_id == project_id)
    if run_id is not None:
        where.append(c.run_id == run_id)
    statement = SELECT_COSTS.where(*where).order_by(c.occurred_at, c.id)
    with tx.execution_options(yield_per=1000).execute(statement) as rows:  # closed also when nobody reads to the end
        for row in rows.mappings():
            yield record_of(row)


def newest(
    tx: Connection,
    workspace_id: str,
    *,
    project_id: str | None = None,
    session_id: str | None = None,
    run_id: str | None = None,
    limit: int = 50,
) -> list[CostRecord]:
    """The latest records of what is asked for, the newest first."""
    where = [c.workspace_id == workspace_id]
    for column, value in ((c.project_id, project_id), (c.session_id, session_id), (c.run_id, run_id)):
        if value is not None:
            where.append(column == value)
    rows = tx.execute(SELECT_COSTS.where(*where).order_by(c.occurred_at.desc(), c.id.desc()).limit(limit))
    return [record_of(row) for row in rows.mappings()]


def calls_to_price(
    tx: Connection,
    workspace_id: str,
    *,
    project_id: str | None = None,
    since: datetime | None = None,
    also_priced: bool = False,
    after: CostRecord | None = None,
    limit: int = 500,
) -> list[CostRecord]:
    """Calls without a price and without a correction (*also_priced*: all calls), oldest first, read on *after* one."""
    where = [c.workspace_id == workspace_id, c.corrects.is_(None)]
    if not also_priced:
        where += [c.cost_usd.is_(None), ~CORRECTED]
    if project_id is not None:
        where.append(c.project_id == project_id)
    if since is not None:
        where.append(c.occurred_at >= since)
    if after is not None:
        read = tuple_(literal(after.occurred_at, c.occurred_at.type), literal(after.id, c.id.type))
        where.append(tuple_(c.occurred_at, c.id) > read)
    rows = tx.execute(SELECT_COSTS.where(*where).order_by(c.occurred_at, c.id).limit(limit))
    return [record_of(row) for row in rows.mappings()]


def corrections(tx: Connection, workspace_id: str, corrected: Sequence[str]) -> dict[str, list[CostRecord]]:
    """The corrections of these records, by the id of the record."""
    found: dict[str, list[CostRecord]] = {}
    rows = tx.execute(
        SELECT_COSTS.where(c.workspace_id == workspace_id, c.corrects.in_(corrected)).order_by(c.recorded_at, c.id)
    )
    for row in rows.mappings():
        found.setdefault(row["corrects"], []).append(record_of(row))
    return found


def named(tx: Connection, workspace_id: str, names: Sequence[str]) -> dict[str, CostRecord]:
    """The records of these ids."""
    rows = tx.execute(SELECT_COSTS.where(c.workspace_id == workspace_id, c.id.in_(names)))
    return {row["id"]: record_of(row) for row in rows.mappings()}


def of_attempt(tx: Connection, workspace_id: str, task_id: str, number: int) -> list[CostRecord]:
    """What the ledger has of one attempt, the oldest first."""
    where = (c.workspace_id == workspace_id, c.task_id == task_id, c.attempt == number)
    rows = tx.execute(SELECT_COSTS.where(*where).order_by(c.recorded_at, c.id))
    return [record_of(row) for row in rows.mappings()]


def record_of(row: RowMapping) -> CostRecord:
    """The domain's record of a row."""
    return CostRecord(
        id=row["id"],
        session_id=row["session_id"],
        project_id=row["project_id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        attempt=row["attempt"],
        agent=row["agent"],
        model=row["model"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_input_tokens=row["cached_input_tokens"],
        total_tokens=row["total_tokens"],
        cost_usd=row["cost_usd"],
        stale=row["stale"],
        occurred_at=row["occurred_at"],
        extra=row["extra"],
        corrects=row["corrects"],
        settles=bool(row["settles"]),
        account=row["account"],
        agent_id=row["agent_id"],
    )
