"""The version of a database's schema and of the programs that work on it, stored beside Alembic's version.

No migration creates the table, as with Alembic's: a program must be able to read both in any database.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, inspect, text

LINE = 1
"""The number of the line of migrations. Databases of the unreleased schemas before it have no line."""


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """A schema's version, its line (None: unreleased), and the oldest schema whose programs work on it.

    ``works_with`` is None where it is not stored.
    """

    version: str
    line: int | None
    works_with: str | None


def schema_version(tx: Connection) -> SchemaVersion | None:
    """Return the schema's version, or None where there is no schema yet."""
    tables = inspect(tx)
    if not tables.has_table("alembic_version"):
        return None
    version = tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if version is None:
        return None
    note = None
    if tables.has_table("schema_compatibility"):
        note = tx.execute(text("SELECT * FROM schema_compatibility")).mappings().first()
    if note is None:
        return SchemaVersion(version, None, None)
    return SchemaVersion(version, note.get("line"), note["works_with"])


def set_works_with(tx: Connection, oldest: str) -> None:
    """Store the oldest schema whose programs work on this one, in the transaction of the migration."""
    tx.execute(
        text(
            "CREATE TABLE IF NOT EXISTS schema_compatibility"
            " (works_with VARCHAR(32) NOT NULL PRIMARY KEY, line INTEGER NOT NULL)"
        )
    )
    tx.execute(text("DELETE FROM schema_compatibility"))
    tx.execute(
        text("INSERT INTO schema_compatibility (works_with, line) VALUES (:oldest, :line)"),
        {"oldest": oldest, "line": LINE},
    )
