"""Statements on the key that signs messages."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, delete, select

from coordination.store.bulk import insert_into
from coordination.store.tables.fleet.broker_keys import broker_keys
from coordination.store.types import db_now

_BYTES = 32


def find(tx: Connection) -> bytes | None:
    """Return the key of this database, or None before it is created."""
    secret = tx.execute(select(broker_keys.c.secret)).scalar()
    return None if secret is None else bytes.fromhex(secret)


def get_or_create(tx: Connection) -> bytes:
    """Return the key of this database. Create it if there is none."""
    row = {"id": 1, "secret": secrets.token_bytes(_BYTES).hex(), "created_at": db_now()}
    tx.execute(insert_into(tx, broker_keys).values(row).on_conflict_do_nothing(index_elements=["id"]))
    return bytes.fromhex(tx.execute(select(broker_keys.c.secret)).scalar_one())


def replace(tx: Connection) -> None:
    """Replace the key; signatures of the old one are invalid from then on."""
    tx.execute(delete(broker_keys))
    get_or_create(tx)
