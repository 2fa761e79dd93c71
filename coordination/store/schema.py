"""Create or migrate a database to this program's schema.

A newer schema is accepted if its migrations declare it compatible, and refused otherwise.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from coordination.base.errors import SchemaMismatch
from coordination.store import compatibility
from coordination.store.engine import Store
from coordination.store.tables import metadata
from coordination.store.tables.access import principals  # noqa: F401 - fills the metadata
from coordination.store.tables.agents import agents  # noqa: F401 - fills the metadata
from coordination.store.tables.fleet import broker_keys, host_leases, workers  # noqa: F401 - fills the metadata
from coordination.store.tables.forecast import job_history  # noqa: F401 - fills the metadata
from coordination.store.tables.issues import issues  # noqa: F401 - fills the metadata
from coordination.store.tables.jobs import artifacts, merges, output  # noqa: F401 - fills the metadata
from coordination.store.tables.money import budgets, costs, prices, rollups  # noqa: F401 - fills the metadata
from coordination.store.tables.projects import projects, retention, stops  # noqa: F401 - fills the metadata
from coordination.store.tables.tasks import attempts, events, questions, runs, task_holds, tasks  # noqa: F401

HEAD = "0001"
"""The newest migration of this program; a test compares it with migrations/versions."""

KNOWN = ("0001",)

WORKS_WITH = "0001"
"""The oldest schema whose programs work on HEAD, as its migration declares; a test compares both."""

_UNRELEASED = tuple(f"{number:04}" for number in range(1, 7))
"""The schemas before the first release, whose databases have no line."""


def current(store: Store) -> str | None:
    """Return the schema's version in the database, or None when it has no schema yet."""
    with store.read() as tx:
        schema = compatibility.schema_version(tx)
    return None if schema is None else schema.version


def require(store: Store) -> None:
    """Raise SchemaMismatch unless this program works on the database's schema, which may be a newer one."""
    with store.read() as tx:
        schema = compatibility.schema_version(tx)
    if schema is None:
        raise SchemaMismatch(f"The database {store.shown_url} has no tables yet", hint="Run: coord migrate")
    if schema.line is None and schema.version in _UNRELEASED:
        raise SchemaMismatch(  # backticks: the commands must not get this program and the present home
            f"The database {store.shown_url} was made by an unreleased version of this program (its schema "
            f"{schema.version}) and cannot be migrated",
            hint="With the version that made it: `coord agents export > agents.json` and `coord costs export > "
            "costs.jsonl`; then with this one: `COORD_HOME=NEW_FOLDER coord agents import agents.json` and `COORD_HOME="
            "NEW_FOLDER coord costs import costs.jsonl` (if COORD_DATABASE_URL is set, change that instead)",
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
    """Create or migrate the schema. Safe from several processes at once. Raises SchemaMismatch as ``require`` does."""
    with store.read() as tx:
        schema = compatibility.schema_version(tx)
    if schema is None:
        with store.write() as tx:
            _lock_schema(tx)
            if compatibility.schema_version(tx) is None:  # otherwise another process has created it
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
    compatibility.set_works_with(tx, WORKS_WITH)


def _lock_schema(tx: Connection) -> None:
    if tx.dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(720014001)"))
