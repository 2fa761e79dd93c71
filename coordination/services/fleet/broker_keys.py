"""The key that signs messages: in the database, which workers, beat and commands share, and which no broker sees."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from coordination.store import schema
from coordination.store.engine import Store, open_store
from coordination.store.queries.fleet import broker_keys as rows
from coordination.store.redis.signatures import Signatures


def signatures_in(store: Store) -> Signatures:
    """Signatures with the key of this store, which stays open as long as they are used."""
    return Signatures(lambda: _key_of(store))


def signatures_at(database_url: str, *, check: Callable[[Store], None] | None = None) -> Signatures:
    """Signatures with the key of this database; it is opened for each look at the key, and nothing is kept open.

    *check*: called with the store first; what it raises, a CoordinationError, is why there is no key.
    """

    def read() -> bytes:
        store = open_store(database_url, pool_size=1)
        try:
            if check is not None:
                check(store)
            return _key_of(store)
        finally:
            store.close()

    return Signatures(read)


def rotate(store: Store) -> None:
    """Replace the key. Processes read it again within a minute; what was signed before is refused then."""
    store.transact(rows.replace)


def _key_of(store: Store) -> bytes:
    try:
        with store.read() as tx:
            found = rows.find(tx)
        return store.transact(rows.make) if found is None else found
    except DBAPIError:
        schema.require(store)  # says what to do about a table that is not there
        raise
