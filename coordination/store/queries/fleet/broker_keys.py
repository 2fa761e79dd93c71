"""Statements on the key that signs messages."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.store.tables.fleet.broker_keys import broker_keys
from coordination.store.types import db_now

_BYTES = 32


def find(tx: Connection) -> bytes | None:
    """The key of this database, or None where nobody has needed one yet."""
    secret = tx.execute(select(broker_keys.c.secret)).scalar()
    return None if secret is None else bytes.fromhex(secret)


def make(tx: Connection) -> bytes:
    """The key of this database, made unless somebody else was first."""
    insert = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    row = {"id": 1, "secret": secrets.token_bytes(_BYTES).hex(), "created_at": db_now()}
    tx.execute(insert(broker_keys).values(row).on_conflict_do_nothing(index_elements=["id"]))
    return bytes.fromhex(tx.execute(select(broker_keys.c.secret)).scalar_one())


def replace(tx: Connection) -> None:
    """Put a new key in the place of the old one, which counts for nothing from then on."""
    tx.execute(delete(broker_keys))
    make(tx)
