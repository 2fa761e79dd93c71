"""Open the store: one URL, writing and read-only transactions, retries of transient errors.

SQLite: WAL, ``BEGIN IMMEDIATE`` for writers (a deferred transaction that upgrades ignores the busy timeout), full sync
so that a commit survives a power cut, one writer at a time per process. PostgreSQL: psycopg 3 with limits on every
wait, so that a suspended worker that has locks cannot block the others for ever.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from coordination.base.clock import day_of
from coordination.base.errors import DatabaseUnavailable, Refused
from coordination.base.money import ZERO, minus, plus
from coordination.base.urls import masked
from coordination.store.postgresql import POOLER_HINT, PoolingMode, address_of, engine_of, pooling_of
from coordination.store.types import iso

T = TypeVar("T")

_BUSY_MS = 30_000
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})  # with concurrent transactions
_TRANSIENT_SQLSTATES = _CONFLICTS | {"57P01", "57P02", "57P03", "53300", "25P03"}
_MAX_CONFLICTS = 3  # at least, because one wait for a lock may be longer than the patience

_SQLITE_ENVIRONMENT = frozenset(
    {
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB),
    }
)
_ENVIRONMENT_SQLSTATES = frozenset({"25006", "42501", "53100", "58030"})
_POOLER_SQLSTATES = frozenset({"26000", "42P05"})  # a prepared statement of another session, or one that exists already
_NO_SCHEMA = "3F000"

SEEN_PRINCIPALS = "seen principals"
"""The key in a connection's ``info`` for the ids of principals whose rows it has seen committed or written itself."""


class Store:
    """One SQL database. ``write()`` and ``read()`` open transactions; ``transact`` retries transient errors."""

    def __init__(self, url: URL, write_engine: Engine, read_engine: Engine, *, pooled: bool = False) -> None:
        self.url = url
        self.pooled = pooled
        self.dialect = url.get_backend_name()
        self._write_engine = write_engine
        self._read_engine = read_engine
        self.refusal: Refused | None = None
        # SQLite has one writer; this lock is fair, its busy handler is not.
        is_sqlite = self.dialect == "sqlite"
        self._writer: AbstractContextManager[object] = threading.RLock() if is_sqlite else nullcontext()

    @property
    def shown_url(self) -> str:
        """The URL with its password masked."""
        return masked(self.url.render_as_string(hide_password=False))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a writing transaction: committed at the end, rolled back on any exception.

        Raises ``refusal``, if set.
        """
        if self.refusal is not None:
            raise self.refusal
        with self._writer, self._begin(self._write_engine) as tx:
            yield tx

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction on one snapshot; the database refuses writes in it."""
        with self._begin(self._read_engine) as tx:
            yield tx

    @contextmanager
    def _begin(self, engine: Engine) -> Iterator[Connection]:
        try:
            connection = engine.connect()
        except (DBAPIError, PoolTimeout) as error:
            raise self._unavailable(error) from error
        with connection:
            try:
                transaction = connection.begin()
            except DBAPIError as error:
                raise self._unavailable(error) from error
            try:
                with transaction:
                    yield connection
            except BaseException as error:
                if not connection.invalidated:
                    connection.info.pop(SEEN_PRINCIPALS, None)  # its own rows are rolled back
                if not isinstance(error, DBAPIError):
                    raise
                if error.connection_invalidated or _is_environment_error(error):
                    raise self._unavailable(error) from error
                raise

    def transact(self, work: Callable[[Connection], T], *, patience: timedelta = timedelta(seconds=10)) -> T:
        """Run *work* in a writing transaction; retry on transient errors (busy, deadlock, lost connection).

        *work* may run more than once, so it must be safe to repeat: guarded updates and conflict-ignoring inserts.
        Raises DatabaseUnavailable when *patience* is over.
        """
        deadline = time.monotonic() + patience.total_seconds()
        wait, conflicts = 0.01, 0
        while True:
            try:
                with self.write() as tx:
                    return work(tx)
            except (DBAPIError, DatabaseUnavailable) as error:
                if not is_transient(error):
                    raise
                conflict = _is_conflict(error)
                conflicts += conflict
                if time.monotonic() + wait > deadline and not (conflict and conflicts < _MAX_CONFLICTS):
                    if isinstance(error, DatabaseUnavailable):
                        raise
                    raise self._unavailable(error) from error
            time.sleep(wait * (0.5 + random.random()))  # noqa: S311 - jitter
            wait = min(wait * 2, 1.0)

    def _unavailable(self, error: BaseException) -> DatabaseUnavailable:
        if _is_conflict(error):
            return DatabaseUnavailable(
                "Other transactions were changing the same rows of the database for too long; nothing was changed",
                hint="Try again; check the database with: coord doctor",
            )
        cause = getattr(error, "orig", None) or error
        first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        state = getattr(cause, "sqlstate", None)
        hint = "Check that it runs, that COORD_DATABASE_URL names it, and that this user may write to it"
        if state in _POOLER_SQLSTATES or "startup parameter" in first:
            hint = POOLER_HINT
        elif state == _NO_SCHEMA:
            hint = "Create the schema that the search_path in COORD_DATABASE_URL names"
        return DatabaseUnavailable(f"The database {self.shown_url} cannot be used: {first}", hint=hint)

    def pooling(self) -> PoolingMode:
        """Return which pooler is before a PostgreSQL server. Raises DatabaseUnavailable without a connection."""
        if self.dialect != "postgresql":
            return PoolingMode.NONE
        try:
            return pooling_of(self._write_engine)
        except (DBAPIError, PoolTimeout) as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Close every pooled connection."""
        self._write_engine.dispose()
        self._read_engine.dispose()


def _is_conflict(error: BaseException) -> bool:
    """Return whether the server ended a statement because of concurrent ones: a deadlock, a lock timeout."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) in _CONFLICTS


def _is_environment_error(error: DBAPIError) -> bool:
    """Return whether not the statement, but the file or the server is the problem: full, read-only, damaged."""
    original = error.orig
    if isinstance(original, sqlite3.DatabaseError) and hasattr(original, "sqlite_errorcode"):
        return original.sqlite_errorcode & 0xFF in _SQLITE_ENVIRONMENT
    state = getattr(original, "sqlstate", None) or ""
    return state in _ENVIRONMENT_SQLSTATES or state in _POOLER_SQLSTATES or state == _NO_SCHEMA


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may help: busy database, deadlock, serialisation, a lost or refused connection."""
    if isinstance(error, DatabaseUnavailable):
        cause = error.__cause__
        return isinstance(cause, PoolTimeout) or (cause is not None and is_transient(cause))
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original = error.orig
    if isinstance(original, sqlite3.OperationalError):
        return original.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = getattr(original, "sqlstate", None)
    if state is None:
        return isinstance(error, OperationalError)
    return state in _TRANSIENT_SQLSTATES or state.startswith("08")


def open_store(url: str, *, pool_size: int = 12) -> Store:
    """Open the database at *url* (``sqlite:///…`` or ``postgresql+psycopg://…``). Connects lazily."""
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return Store(parsed, _sqlite_engine(parsed, writes=True), _sqlite_engine(parsed, writes=False))
    if backend == "postgresql":
        address = address_of(parsed)
        engine = engine_of(address, pool_size=pool_size)
        reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        return Store(parsed, engine, reading, pooled=address.pooled)
    raise DatabaseUnavailable(
        f"{parsed.render_as_string(hide_password=True)} is neither SQLite nor PostgreSQL",
        hint="Set COORD_DATABASE_URL to sqlite:///path or postgresql://user:password@host/name",
    )


def _sqlite_engine(url: URL, *, writes: bool) -> Engine:
    engine = create_engine(
        url, connect_args={"timeout": _BUSY_MS / 1000, "check_same_thread": False}, pool_size=4, max_overflow=60
    )

    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we execute BEGIN ourselves
        cursor = connection.cursor()
        # A folder that does not exist, or is not writable, raises "unable to open" here.
        if writes:
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        cursor.execute("PRAGMA cache_size=-32000")
        # A checkpoint every 16 MB, not every 4: a page that many commits change is copied once for all.
        cursor.execute("PRAGMA wal_autocheckpoint=4000")
        if not writes:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()
        connection.create_function("utc_now", 0, _sqlite_after)
        connection.create_function("utc_after", 1, _sqlite_after)
        connection.create_aggregate("sum_money", 1, _SumMoney)  # type: ignore[arg-type]
        connection.create_function("add_money", 2, _add_money, deterministic=True)
        connection.create_function("minus_money", 1, _minus_money, deterministic=True)
        connection.create_function("local_day", 2, _local_day, deterministic=True)

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    def on_do_connect(_dialect: object, _record: object, arguments: list[Any], _more: object) -> None:
        # SQLite creates its further files with the mode of this one. Existing files are not opened: closing them would
        # release the locks that this process has on them.
        if writes and arguments and not str(arguments[0]).startswith((":", "file:")):
            with suppress(OSError):  # SQLite has the better message
                os.close(os.open(arguments[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    event.listen(engine, "do_connect", on_do_connect)
    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _sqlite_after(seconds: float = 0) -> str:
    return iso(datetime.now(UTC) + timedelta(seconds=seconds))


class _SumMoney:
    """An exact sum of decimal texts; SQLite's own would use floats."""

    def __init__(self) -> None:
        self.total: Decimal | None = None

    def step(self, value: str | None) -> None:
        if value is not None:
            self.total = plus(self.total or ZERO, Decimal(value))

    def finalize(self) -> str | None:
        return None if self.total is None else f"{self.total:f}"


def _add_money(amount: str, other: str) -> str:
    return f"{plus(Decimal(amount), Decimal(other)):f}"


def _minus_money(amount: str | None) -> str | None:
    return None if amount is None else f"{minus(Decimal(amount)):f}"


def _local_day(zone: str, moment: str) -> str:
    """Return the day of a stored moment in a zone, which PostgreSQL has built in."""
    return moment[:10] if zone == "UTC" else day_of(datetime.fromisoformat(moment), zone)


def sqlite_path(url: URL) -> Path | None:
    """Return the database's file, for a SQLite URL that has one."""
    has_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)) if has_file else None
