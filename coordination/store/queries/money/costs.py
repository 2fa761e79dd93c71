"""Statements on the cost ledger: append and read. The database refuses updates.

Totals include corrections: dollars are those of all rows, calls are the rows that are not corrections.
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

from sqlalchemy import JSON, ColumnElement, Connection, RowMapping, Text, cast, func, literal, select, tuple_

from coordination.base.money import plus
from coordination.domain.money.costs import CostRecord, repeat_id
from coordination.store.driver import insert_into, insert_new
from coordination.store.queries.access.principals import agent_ids, name_of
from coordination.store.tables.money.costs import CALLS, CORRECTED, UNPRICED, costs
from coordination.store.types import sum_money

c = costs.c

_MANY = 1000
_MOST_AGAIN = 50
_FIELDS = tuple(field.name for field in fields(CostRecord) if field.name != "agent")  # stored as agent_id
_COLUMNS = ("workspace_id", *_FIELDS)
_values = attrgetter(*_FIELDS)

BilledAmounts = tuple[str, int, int, int, int, Decimal | None]


SELECT_COSTS = select(costs, name_of(c.agent_id).label("agent"))
"""Selects records with the names of their agents, as ``record_of`` reads them."""


def with_agents(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Return the records with the ids of their agents; new agents are stored."""
    names = {record.agent for record in records if record.agent is not None and record.agent_id is None}
    if not names:
        return list(records)
    ids = agent_ids(tx, workspace_id, names)
    return [
        record if record.agent is None or record.agent_id is not None else replace(record, agent_id=ids[record.agent])
        for record in records
    ]


def append(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Insert records, and return those that were new, in their order. Skips ids that exist."""
    first: dict[str, CostRecord] = {}
    for record in records:
        first.setdefault(record.id, record)
    if not first:
        return []
    ordered = sorted(first.values(), key=attrgetter("id"))  # concurrent writers of the same ids lock them in this order
    if tx.dialect.name == "postgresql" and len(first) >= _MANY:
        columns = zip(*map(_values, ordered), strict=True)
        values = {"workspace_id": [workspace_id] * len(first)} | dict(zip(_FIELDS, columns, strict=True))
        new = insert_new(tx, costs, values, now="recorded_at", returning="id")
    else:
        rows = [dict(zip(_COLUMNS, (workspace_id, *_values(record)), strict=True)) for record in ordered]
        # One statement for any number of rows, so that it is compiled once; RETURNING, because rowcount is unknown.
        statement = insert_into(tx, costs).on_conflict_do_nothing().returning(c.id)
        new = set(tx.execute(statement, rows).scalars())
    return [record for record in first.values() if record.id in new]


def read_billed(tx: Connection, workspace_id: str, ids: Sequence[str]) -> dict[str, BilledAmounts]:
    """Return the model, tokens and cost of the records with these ids."""
    matches: Any = c.id.in_(ids)
    if tx.dialect.name == "postgresql":  # its driver is slow with very long lists
        matches = c.id.in_(select(func.json_array_elements_text(cast(literal(json.dumps(ids), Text()), JSON))))
    columns = (c.model, c.input_tokens, c.output_tokens, c.cached_input_tokens, c.total_tokens, c.cost_usd)
    rows = tx.execute(select(c.id, *columns).where(c.workspace_id == workspace_id, matches))
    return {row[0]: tuple(row[1:]) for row in rows}


def read_total_billed(tx: Connection, workspace_id: str, name: str) -> BilledAmounts | None:
    """Return the model, tokens and cost of one call, including what repeated reports with larger amounts added."""
    records = read_records(tx, workspace_id, [name, *(repeat_id(name, number) for number in range(2, _MOST_AGAIN))])
    first = records.pop(name, None)
    if first is None:
        return None
    every = [first, *(one for one in records.values() if (one.task_id, one.attempt) == (first.task_id, first.attempt))]
    prices = [record.cost_usd for record in every if record.cost_usd is not None]
    return (
        first.model,
        sum(record.input_tokens for record in every),
        sum(record.output_tokens for record in every),
        sum(record.cached_input_tokens for record in every),
        sum(record.total_tokens for record in every),
        reduce(plus, prices) if prices else None,
    )


def _where(workspace_id: str, **values: str | None) -> list[ColumnElement[bool]]:
    filters = (c[name] == value for name, value in values.items() if value is not None)
    return [c.workspace_id == workspace_id, *filters]


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
    """Return (dollars with a known price, calls, calls whose price is unknown) of the selected records."""
    where = _where(workspace_id, run_id=run_id, project_id=project_id, task_id=task_id, session_id=session_id)
    if since is not None:
        where.append(c.occurred_at >= since)
    columns = sum_money(c.cost_usd).label("usd"), CALLS.label("calls"), UNPRICED.label("unpriced")
    row = tx.execute(select(*columns).where(*where)).one()
    return row.usd or Decimal(0), row.calls, max(0, row.unpriced)


def each(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, run_id: str | None = None
) -> Iterator[CostRecord]:
    """Yield the records of the ledger, oldest first."""
    where = _where(workspace_id, project_id=project_id, run_id=run_id)
    statement = SELECT_COSTS.where(*where).order_by(c.occurred_at, c.id)
    with tx.execution_options(yield_per=1000).execute(statement) as rows:  # closes also when the reader stops early
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
    """Return the latest of the selected records, newest first."""
    where = _where(workspace_id, project_id=project_id, session_id=session_id, run_id=run_id)
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
    """Return a page of calls without a price and a correction (*also_priced*: all calls), oldest first, *after* one."""
    where = [*_where(workspace_id, project_id=project_id), c.corrects.is_(None)]
    if not also_priced:
        where += [c.cost_usd.is_(None), ~CORRECTED]
    if since is not None:
        where.append(c.occurred_at >= since)
    if after is not None:
        position = tuple_(literal(after.occurred_at, c.occurred_at.type), literal(after.id, c.id.type))
        where.append(tuple_(c.occurred_at, c.id) > position)
    rows = tx.execute(SELECT_COSTS.where(*where).order_by(c.occurred_at, c.id).limit(limit))
    return [record_of(row) for row in rows.mappings()]


def corrections(tx: Connection, workspace_id: str, corrected: Sequence[str]) -> dict[str, list[CostRecord]]:
    """Return the corrections of these records, by the id of the record."""
    by_record: dict[str, list[CostRecord]] = {}
    rows = tx.execute(
        SELECT_COSTS.where(c.workspace_id == workspace_id, c.corrects.in_(corrected)).order_by(c.recorded_at, c.id)
    )
    for row in rows.mappings():
        by_record.setdefault(row["corrects"], []).append(record_of(row))
    return by_record


def read_records(tx: Connection, workspace_id: str, ids: Sequence[str]) -> dict[str, CostRecord]:
    """Return the records with these ids, by id."""
    rows = tx.execute(SELECT_COSTS.where(c.workspace_id == workspace_id, c.id.in_(ids)))
    return {row["id"]: record_of(row) for row in rows.mappings()}


def of_attempt(tx: Connection, workspace_id: str, task_id: str, number: int) -> list[CostRecord]:
    """Return the records of one attempt, oldest first."""
    where = (c.workspace_id == workspace_id, c.task_id == task_id, c.attempt == number)
    rows = tx.execute(SELECT_COSTS.where(*where).order_by(c.recorded_at, c.id))
    return [record_of(row) for row in rows.mappings()]


def record_of(row: RowMapping) -> CostRecord:
    """Convert a row to a record."""
    return CostRecord(agent=row["agent"], **{name: row[name] for name in _FIELDS})
