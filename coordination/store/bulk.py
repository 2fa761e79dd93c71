"""Storing very many rows at once: COPY on PostgreSQL, one prepared statement on SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, insert

_FEW = 50


def insert_rows(tx: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Store *rows*, which all have the same columns. Values go through the columns' types, as with an INSERT."""
    if not rows:
        return
    if tx.dialect.name != "postgresql" or len(rows) < _FEW:
        tx.execute(insert(table), list(rows))
        return
    names = list(rows[0])
    convert = [table.c[name].type.dialect_impl(tx.dialect).bind_processor(tx.dialect) for name in names]
    columns = ", ".join(tx.dialect.identifier_preparer.quote(name) for name in names)
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    with driver.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy:
        for values in _converted(rows, names, convert):
            copy.write_row(values)


def _converted(rows: Iterable[dict[str, Any]], names: Sequence[str], convert: Sequence[Any]) -> Iterable[list[Any]]:
    pairs = list(zip(names, convert, strict=True))
    for row in rows:
        yield [row[name] if process is None else process(row[name]) for name, process in pairs]
