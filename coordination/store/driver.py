"""Access to the driver below SQLAlchemy: statements in bulk and rows without conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy import Connection, Table, insert
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.exc import DBAPIError

_FEW = 10
_BLOCK = 500


def rows(tx: Connection, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """Execute a statement in the driver's own style and return its rows as tuples.

    For the statements between short tasks: SQLAlchemy describes the result's columns anew at each execution, which
    takes as long as planning and sending them. Raises DBAPIError as ``exec_driver_sql`` does. Listeners for statements
    are called as usual.
    """
    if tx.dispatch.before_cursor_execute:
        return list(tx.exec_driver_sql(statement, dict(values)))
    driver: Any = tx.connection.driver_connection
    errors: Any = tx.dialect.loaded_dbapi
    try:
        return list(driver.execute(statement, values).fetchall())
    except errors.Error as error:
        is_disconnected = tx.dialect.is_disconnect(error, driver, None)
        if is_disconnected:
            tx.invalidate(error)
        raise DBAPIError.instance(
            statement, dict(values), error, errors.Error, connection_invalidated=is_disconnected, dialect=tx.dialect
        ) from error


def insert_into(tx: Connection, table: Table) -> PostgresqlInsert | SqliteInsert:
    """Return an INSERT that can have an ON CONFLICT clause of the transaction's database."""
    return PostgresqlInsert(table) if tx.dialect.name == "postgresql" else SqliteInsert(table)


def insert_rows(tx: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    """Insert *rows*, which all have the same columns. Values are converted by the columns' types.

    The iterable is consumed in blocks, so that PostgreSQL stores one while the next is built.
    """
    remaining = iter(rows)
    block = list(islice(remaining, _BLOCK))
    if len(block) < _FEW:
        if block:
            tx.execute(insert(table), block)
        return
    names = list(block[0])
    columns = ", ".join(tx.dialect.identifier_preparer.quote(name) for name in names)
    blocks = chain([block], iter(lambda: list(islice(remaining, _BLOCK)), []))
    values = (_rows(tx, table, {name: [row[name] for row in each] for name in names}) for each in blocks)
    if tx.dialect.name == "sqlite":
        placeholders = ", ".join("?" * len(names))
        for each in values:
            tx.exec_driver_sql(f'INSERT INTO "{table.name}" ({columns}) VALUES ({placeholders})', list(each))  # noqa: S608 - names of our own tables
        return
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    with driver.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy:
        for row in chain.from_iterable(values):
            copy.write_row(row)


def insert_new(
    tx: Connection, table: Table, columns: Mapping[str, Sequence[Any]], *, now: str, returning: str
) -> set[Any]:
    """Insert the rows that do not conflict, and return their *returning* column. PostgreSQL only.

    *columns*: all values by column. They are copied into a temporary table first. The column *now* gets the database's
    time.
    """
    quoted = ", ".join(f'"{name}"' for name in columns)
    insert_statement = f'INSERT INTO "{table.name}" SELECT * FROM "new_{table.name}"'  # noqa: S608 - names of our own tables
    driver = tx.connection.driver_connection
    assert driver is not None  # noqa: S101 - an open transaction has one
    with driver.cursor() as cursor:
        cursor.execute(f'CREATE TEMPORARY TABLE "new_{table.name}" (LIKE "{table.name}") ON COMMIT DROP')
        cursor.execute(f'ALTER TABLE "new_{table.name}" ALTER "{now}" SET DEFAULT now()')
        with cursor.copy(f'COPY "new_{table.name}" ({quoted}) FROM STDIN') as copy:
            for each in _rows(tx, table, columns):
                copy.write_row(each)
        cursor.execute(f'{insert_statement} ON CONFLICT DO NOTHING RETURNING "{returning}"')
        new = {row[0] for row in cursor.fetchall()}
        cursor.execute(f'DROP TABLE "new_{table.name}"')
    return new


def _rows(tx: Connection, table: Table, columns: Mapping[str, Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """Return the rows converted for the driver."""
    converted = []
    for name, values in columns.items():
        kind = table.c[name].type
        process = kind.dialect_impl(tx.dialect).bind_processor(tx.dialect)
        converted.append(values if process is None else _convert(values, process))
    return zip(*converted, strict=True)


def _convert(values: Sequence[Any], process: Callable[[Any], Any]) -> list[Any]:
    """Convert each value; an object that repeats in the column is converted once."""
    unique = {id(value): value for value in values}  # the values are alive, so their ids are unique
    if len(unique) == 1:
        return [process(values[0])] * len(values)
    if len(unique) > len(values) // 2:
        return [process(value) for value in values]
    converted = {key: process(value) for key, value in unique.items()}
    return [converted[id(value)] for value in values]
