"""Bringing a database to this program's schema: created when empty, migrated when older, refused when newer."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from coordination.errors import SchemaMismatch
from coordination.store.engine import Store
from coordination.store.tables import (  # noqa: F401 - importing them fills the metadata
    attempts,
    costs,
    events,
    fleet,
    issues,
    metadata,
    projects,
    runs,
    tasks,
)

HEAD = "0001"
"""The newest migration this program knows; a test holds it against migrations/versions."""

KNOWN = ("0001",)


def current(store: Store) -> str | None:
    """The schema's version in the database, or None when it has no schema yet."""
    with store.read() as tx:
        return _version(tx)


def _version(tx: Connection) -> str | None:
    if not inspect(tx).has_table("alembic_version"):
        return None
    return tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def require(store: Store) -> None:
    """Nothing when the schema fits; else SchemaMismatch with what to do."""
    found = current(store)
    if found == HEAD:
        return
    if found is None:
        raise SchemaMismatch(f"The database {store.shown_url} has no tables yet", hint="Run: coord migrate")
    _refuse_newer(store, found)
    raise SchemaMismatch(
        f"The database {store.shown_url} has schema {found}, this program needs {HEAD}", hint="Run: coord migrate"
    )


def prepare(store: Store) -> None:
    """Create or migrate. Safe to run from several processes at once; raises SchemaMismatch when it is newer."""
    found = current(store)
    if found == HEAD:
        return
    if found is not None:
        _refuse_newer(store, found)
        from coordination.store.migrations import upgrade  # alembic is slow to import and rarely needed

        upgrade(store)
        return
    with store.write() as tx:
        _one_at_a_time(tx)
        if _version(tx) is not None:  # another process was first
            return
        metadata.create_all(tx)
        tx.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        tx.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": HEAD})


def _one_at_a_time(tx: Connection) -> None:
    if tx.dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(720014001)"))


def _refuse_newer(store: Store, found: str) -> None:
    if found not in KNOWN:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {found}, which is newer than this program knows ({HEAD})",
            hint="Upgrade the coordination package on this machine",
        )
