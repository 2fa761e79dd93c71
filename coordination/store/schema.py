"""Bringing a database to this program's schema: created when empty, migrated when older.

A newer one is worked with when it was only added to since (its migrations say so), and refused otherwise.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from coordination.base.errors import SchemaMismatch
from coordination.store import compatibility
from coordination.store.engine import Store
from coordination.store.tables import metadata
from coordination.store.tables.access import principals  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.agents import agents  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.fleet import broker_keys, host_leases, workers  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.forecast import job_history  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.issues import issues  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.jobs import artifacts, merges, output  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.money import budgets, costs, prices, rollups  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.projects import projects, retention, stops  # noqa: F401 - importing them fills the metadata
from coordination.store.tables.tasks import (  # noqa: F401 - importing them fills the metadata
    attempts,
    events,
    questions,
    runs,
    task_holds,
    tasks,
)

HEAD = "0001"
"""The newest migration this program knows; a test holds it against migrations/versions."""

KNOWN = ("0001",)

WORKS_WITH = "0001"
"""The oldest schema whose programs work on HEAD, as its migration declares; a test holds the two together."""

_UNRELEASED = tuple(f"{number:04}" for number in range(1, 7))
"""The schemas before the first release, whose databases have no line."""


def current(store: Store) -> str | None:
    """Return the schema's version in the database, or None when it has no schema yet."""
    with store.read() as tx:
        schema = compatibility.schema_version(tx)
    return None if schema is None else schema.version


def require(store: Store) -> None:
    """Return when this program works on the schema, which may be a newer one; else raise SchemaMismatch."""
    with store.read() as tx:
        schema = compatibility.schema_version(tx)
    if schema is None:
        raise SchemaMismatch(f"The database {store.shown_url} has no tables yet", hint="Run: coord migrate")
    if schema.line is None and schema.version in _UNRELEASED:
        raise SchemaMismatch(
            f"The database {store.shown_url} was made by an unreleased version of this program (its schema "
            f"{schema.version}) and cannot be migrated: export what you need with that version (coord agents export, "
            "coord costs export), then import it into a new home or an empty database with this one (coord agents "
            "import, coord costs import)"
        )
    if schema.version == HEAD:
        return
    if schema.version in KNOWN:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {schema.version}, this program needs {HEAD}",
            hint="Run: coord migrate",
        )
    if schema.works_with not in KNOWN:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {schema.version}, which is newer than this program ({HEAD}) "
            f"and needs programs of {schema.works_with or schema.version} or later",
            hint="Upgrade the coordination package on this machine",
        )


def prepare(store: Store) -> None:
    """Create or migrate. Safe to run from several processes at once; raises SchemaMismatch as ``require`` does."""
    with store.read() as tx:
        schema = compatibility.schema_version(tx)
    if schema is None:
        with store.write() as tx:
            _one_at_a_time(tx)
            if compatibility.schema_version(tx) is None:  # else another process was first
                _create(tx)
    elif schema.line is not None and schema.version in KNOWN[:-1]:
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
