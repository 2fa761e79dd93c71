"""The key that signs messages: in the database, which workers, beat and commands share and no broker can read."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from coordination.store import schema
from coordination.store.engine import Store, open_store
from coordination.store.queries.fleet import workers
from coordination.store.redis.signatures import Signatures


def signatures_in(store: Store) -> Signatures:
    """Return signatures with the key of *store*, which must stay open while they are used."""
    return Signatures(lambda: _key_of(store))


def signatures_at(database_url: str, *, check: Callable[[Store], None] | None = None) -> Signatures:
    """Return signatures with the key of a database that is opened for each read of the key only.

    *check*: called with the store first; a CoordinationError that it raises is the reason why there is no key.
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
    """Replace the key. Processes read it again within a minute; then earlier signatures are invalid."""
    store.transact(workers.replace_broker_key)


def _key_of(store: Store) -> bytes:
    try:
        with store.read() as tx:
            key = workers.find_broker_key(tx)
        return store.transact(workers.get_or_create_broker_key) if key is None else key
    except DBAPIError:
        schema.require(store)  # its error is more helpful when the table is missing
        raise
