"""Which programs work on a database's schema: noted beside Alembic's version by whoever creates or migrates it.

No migration of its own makes the table, as none makes Alembic's: a program must be able to read both before it knows
anything else about the database.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text


def version(tx: Connection) -> str | None:
    """The schema's version, or None where there is no schema yet."""
    if not inspect(tx).has_table("alembic_version"):
        return None
    return tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def works_with(tx: Connection) -> str | None:
    """The oldest schema whose programs work on this one, or None where nobody noted it."""
    if not inspect(tx).has_table("schema_compatibility"):
        return None
    return tx.execute(text("SELECT works_with FROM schema_compatibility")).scalar_one_or_none()


def note_works_with(tx: Connection, oldest: str) -> None:
    """Note it, within the transaction that changes the schema."""
    tx.execute(text("CREATE TABLE IF NOT EXISTS schema_compatibility (works_with VARCHAR(32) NOT NULL PRIMARY KEY)"))
    tx.execute(text("DELETE FROM schema_compatibility"))
    tx.execute(text("INSERT INTO schema_compatibility (works_with) VALUES (:oldest)"), {"oldest": oldest})
