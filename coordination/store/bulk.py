"""Storing very many rows at once: COPY on PostgreSQL, one prepared statement on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy import Connection, Table, insert

_FEW = 10
_BLOCK = 500


def insert_rows(tx: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    """Store *rows*, which all have the same columns. Values go through the columns' types, as with an INSERT.

    They are asked for a block at a time: PostgreSQL stores one while the next is made.
    """
    given = iter(rows)
    block = list(islice(given, _BLOCK))
    if len(block) < _FEW:
        if block:
            tx.execute(insert(table), block)
        return
    names = list(block[0])
    columns = ", ".join(tx.dialect.identifier_preparer.quote(name) for name in names)
    blocks = chain([block], iter(lambda: list(islice(given, _BLOCK)), []))
    values = (_rows(tx, table, {name: [row[name] for row in each] for name in names}) for each in blocks)
    if tx.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        for each in values:
            tx.exec_driver_sql(f'INSERT INTO "{table.name}" ({columns}) VALUES ({marks})', list(each))  # noqa: S608 - names of our own tables
        return
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    with driver.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy:
        for row in chain.from_iterable(values):
            copy.write_row(row)


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
