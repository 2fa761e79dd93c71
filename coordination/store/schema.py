"""Bringing a database to this program's schema: created when empty, migrated when older.

A newer one is worked with when it was only added to since (its migrations say so), and refused otherwise.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from coordination.base.errors import SchemaMismatch
from coordination.store import compatibility
from coordination.store.engine import Store
from coordination.store.tables import metadata
from coordination.store.tables.agents import agents  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.fleet import broker_keys, host_leases, workers  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.forecast import job_history  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.issues import issues  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.jobs import artifacts, merges, output  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.money import budgets, costs, prices, rollups  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.projects import projects, retention, stops  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.tasks import attempts, events, questions, runs, tasks  # noqa: F401 - importing them fills the metadata

HEAD = "0006"
"""The newest migration this program knows; a test holds it against migrations/versions."""

KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006")

WORKS_WITH = "0001"
"""The oldest schema whose programs work on HEAD, as its migration declares; a test holds the two together."""


def current(store: Store) -> str | None:
    """The schema's version in the database, or None when it has no schema yet."""
    with store.read() as tx:
        return compatibility.version(tx)


def require(store: Store) -> None:
    """Nothing when this program works on the schema, which may be a newer one; else SchemaMismatch with what to do."""
    with store.read() as tx:
        found, oldest = compatibility.version(tx), compatibility.works_with(tx)
    if found == HEAD:
        return
    if found is None:
        raise SchemaMismatch(f"The database {store.shown_url} has no tables yet", hint="Run: coord migrate")
    if found in KNOWN:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {found}, this program needs {HEAD}", hint="Run: coord migrate"
        )
    if oldest not in KNOWN:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {found}, which is newer than this program ({HEAD}) "
            f"and needs programs of {oldest or found} or later",
            hint="Upgrade the coordination package on this machine",
        )


def prepare(store: Store) -> None:
    """Create or migrate. Safe to run from several processes at once; raises SchemaMismatch as ``require`` does."""
    found = current(store)
    if found is None:
        with store.write() as tx:
            _one_at_a_time(tx)
            if compatibility.version(tx) is None:  # else another process was first
                _create(tx)
    elif found in KNOWN[:-1]:
        from coordination.store.migrations import upgrade  # alembic is slow to import and rarely needed

        upgrade(store)
    else:
        require(store)


def _create(tx: Connection) -> None:
    metadata.create_all(tx)
    tx.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    tx.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": HEAD})
    compatibility.note_works_with(tx, WORKS_WITH)


def _one_at_a_time(tx: Connection) -> None:
    if tx.dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(720014001)"))
