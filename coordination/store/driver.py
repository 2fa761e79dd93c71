"""Rows of the statements that each task pays for, straight from the driver.

SQLAlchemy describes the columns of a result anew whenever a statement of the driver's own is executed. For the two
statements between one short task and the next that takes as long as the statements' own planning and sending.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


def rows(tx: Connection, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """The rows, as tuples, of a statement in the driver's own style that returns some.

    Raises DBAPIError as ``exec_driver_sql`` does. Who listens to statements hears of it as usual.
    """
    if tx.dispatch.before_cursor_execute:
        return list(tx.exec_driver_sql(statement, dict(values)))
    driver: Any = tx.connection.driver_connection
    errors: Any = tx.dialect.loaded_dbapi
    try:
        return list(driver.execute(statement, values).fetchall())
    except errors.Error as error:
        gone = tx.dialect.is_disconnect(error, driver, None)
        if gone:
            tx.invalidate(error)
        raise DBAPIError.instance(
            statement, dict(values), error, errors.Error, connection_invalidated=gone, dialect=tx.dialect
        ) from error
