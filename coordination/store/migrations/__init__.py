"""Schema migrations, in the package so that an installed program can upgrade its own database.

Expand first, contract in a later release: while workers of two versions run side by side, both must work on the schema.
Each migration declares ``works_with``, the oldest schema whose programs still work on its result. One that only adds
repeats its predecessor's; one that removes something names a later one, and is deployed when no older program runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, event, text

from coordination.base.errors import DatabaseUnavailable, SchemaMismatch
from coordination.store.compatibility import set_works_with
from coordination.store.engine import Store, open_store

if TYPE_CHECKING:
    from alembic.config import Config

_PATIENCE = timedelta(seconds=60)


def upgrade(store: Store, to: str = "head", *, also: Sequence[Path] = ()) -> None:
    """Migrate the database to revision *to*. Several processes may call this at once: one migrates, others wait.

    Safe while workers run: each wait for a lock ends after two seconds, so that nobody queues behind it for longer, and
    is retried for a minute. *also*: further folders with migrations. Raises DatabaseUnavailable.
    """
    config = configuration(also)
    with _for_migrations(store) as migrated:
        try:
            migrated.transact(lambda tx: _upgrade(tx, config, to), patience=_PATIENCE)
        except DatabaseUnavailable as error:
            if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) != "55P03":
                raise
            raise DatabaseUnavailable(
                f"The migration of {store.shown_url} found tables locked for {_PATIENCE.total_seconds():g} s",
                hint="Nothing was changed. End what holds the locks (pg_stat_activity shows it), and try again",
            ) from error


def configuration(also: Sequence[Path] = ()) -> Config:
    """Return Alembic's configuration, without an ini file."""
    from alembic.config import Config

    here = Path(__file__).parent
    config = Config()
    config.set_main_option("script_location", str(here).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", "\n".join(str(place) for place in (here / "versions", *also)).replace("%", "%%")
    )
    return config


def _upgrade(tx: Connection, config: Config, to: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    if tx.dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(720014001)"))
        tx.execute(text("SET LOCAL lock_timeout = '2s'"))
    config.attributes["connection"] = tx
    command.upgrade(config, to)
    if tx.dialect.name == "sqlite" and (broken := tx.execute(text("PRAGMA foreign_key_check")).first()):
        raise SchemaMismatch(
            f"The migration would leave rows of {broken[0]} with dangling references; nothing was changed"
        )
    reached = tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    script = ScriptDirectory.from_config(config).get_revision(reached)
    set_works_with(tx, getattr(script.module, "works_with", reached))


@contextmanager
def _for_migrations(store: Store) -> Iterator[Store]:
    """Yield a store without cascades for SQLite, which changes a table by copying and dropping it; else *store*."""
    if store.dialect != "sqlite":
        yield store
        return
    opened = open_store(store.url.render_as_string(hide_password=False))

    @event.listens_for(opened._write_engine, "connect")  # noqa: SLF001 - our own store, for this use only
    def _without_cascades(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys=OFF")  # has no effect within a transaction

    try:
        yield opened
    finally:
        opened.close()
