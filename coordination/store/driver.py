"""Rows of the statements on the hot path, read directly from the driver.

SQLAlchemy describes the result's columns anew at each execution of a driver's statement. For the two statements between
short tasks that takes as long as planning and sending them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


def rows(tx: Connection, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """Execute a statement in the driver's own style and return its rows as tuples.

    Raises DBAPIError as ``exec_driver_sql`` does. Listeners for statements are called as usual.
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
