"""Schema migrations, in the package so that an installed program can upgrade its own database.

Expand first, contract in a later release: while workers of two versions run side by side, both must work on the schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config

    from coordination.store.engine import Store


def upgrade(store: Store, to: str = "head") -> None:
    """Bring the database up to revision *to*. Several processes may call this at once: one migrates, others wait."""
    from alembic import command

    with store.write() as tx:
        if tx.dialect.name == "postgresql":
            from sqlalchemy import text

            tx.execute(text("SELECT pg_advisory_xact_lock(720014001)"))
        config = configuration()
        config.attributes["connection"] = tx
        command.upgrade(config, to)


def configuration() -> Config:
    """Alembic's configuration, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
