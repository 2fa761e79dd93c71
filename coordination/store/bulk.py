"""Storing very many rows at once: COPY on PostgreSQL, one prepared statement on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, insert

_FEW = 50


def insert_rows(tx: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Store *rows*, which all have the same columns. Values go through the columns' types, as with an INSERT."""
    if not rows:
        return
    if len(rows) < _FEW:
        tx.execute(insert(table), list(rows))
        return
    names = list(rows[0])
    values = _rows(tx, table, {name: [row[name] for row in rows] for name in names})
    columns = ", ".join(tx.dialect.identifier_preparer.quote(name) for name in names)
    if tx.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        tx.exec_driver_sql(f'INSERT INTO "{table.name}" ({columns}) VALUES ({marks})', list(values))  # noqa: S608 - names of our own tables
        return
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    with driver.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy:
        for each in values:
            copy.write_row(each)


def insert_new(
    tx: Connection, table: Table, columns: Mapping[str, Sequence[Any]], *, now: str, returning: str
) -> set[Any]:
    """Store those rows that conflict with none, and say which. On PostgreSQL only.

    *columns*: all values of each. They go by COPY into a temporary table of the session first. The column *now* gets
    the database's time.
    """
    quoted = ", ".join(f'"{name}"' for name in columns)
    store = f'INSERT INTO "{table.name}" SELECT * FROM "new_{table.name}"'  # noqa: S608 - names of our own tables
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    with driver.cursor() as cursor:
        cursor.execute(f'CREATE TEMPORARY TABLE "new_{table.name}" (LIKE "{table.name}") ON COMMIT DROP')
        cursor.execute(f'ALTER TABLE "new_{table.name}" ALTER "{now}" SET DEFAULT now()')
        with cursor.copy(f'COPY "new_{table.name}" ({quoted}) FROM STDIN') as copy:
            for each in _rows(tx, table, columns):
                copy.write_row(each)
        cursor.execute(f'{store} ON CONFLICT DO NOTHING RETURNING "{returning}"')
        new = {row[0] for row in cursor.fetchall()}
        cursor.execute(f'DROP TABLE "new_{table.name}"')
    return new


def _rows(tx: Connection, table: Table, columns: Mapping[str, Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """The rows as the driver takes them."""
    converted = []
    for name, values in columns.items():
        kind = table.c[name].type
        process = kind.dialect_impl(tx.dialect).bind_processor(tx.dialect)
        converted.append(values if process is None else _converted(values, process))
    return zip(*converted, strict=True)


def _converted(values: Sequence[Any], process: Callable[[Any], Any]) -> list[Any]:
    """Each value processed; an object that stands in the column again and again is processed once."""
    different = {id(value): value for value in values}  # all of them live until the end, so an id is one value's
    if len(different) == 1:
        return [process(values[0])] * len(values)
    if len(different) > len(values) // 2:
        return [process(value) for value in values]
    known = {key: process(value) for key, value in different.items()}
    return [known[id(value)] for value in values]
