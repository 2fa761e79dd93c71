"""Copies databases for attempts and drops the copies: PostgreSQL by a template, SQLite by its backup API."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import psycopg
from psycopg import errors, sql

from coordination.base.errors import Refused, Unavailable
from coordination.base.urls import masked
from coordination.domain.jobs.preparation import Database, check_url, sqlite_path
from workers.runners.output import last_line

_CONNECT_TIMEOUT = 10  # seconds
_LIMIT = "SET statement_timeout = '10min'"
_SHOWN = 300
_MAINTENANCE = "postgres"
_OF_LIBPQ = frozenset(
    {
        *("host", "hostaddr", "port", "user", "password", "options", "target_session_attrs", "channel_binding"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslpassword", "sslnegotiation", "gssencmode", "passfile"),
    }
)
"""URL parameters that are passed to libpq; others are for the job's own library."""


def read_source_url(database: Database) -> str:
    """Return the URL of the original database. Raises Refused when it is in a variable that this worker lacks."""
    name = database.worker_variable
    if name is None:
        return database.clone
    if not (url := os.environ.get(name, "").strip()):
        raise Refused(
            f"checkout.database names the variable {name}, which this worker does not have",
            hint=f"Start workers with {name}, or write the URL in the plan",
        )
    return check_url(url, what=f"{name}, which checkout.database names,")


def copy_sqlite_file(url: str, folder: str | None, target: Path) -> None:
    """Copy the SQLite file that *url* names to *target*, also while others write to it. Raises Refused or Unavailable.

    Relative paths start at *folder*.
    """
    source = _source_path(folder or "/", str(sqlite_path(url)))
    _check_no_link(source, folder)
    if not source.is_file():
        why = f"checkout.database names {source}, and there is no such file"
        raise Refused(why, hint="Create it, or correct the URL")
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, timeout=60)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
        _check_no_link(source, folder)  # a job may have made one meanwhile
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise Unavailable(f"The database {source} is locked, so it cannot be copied now") from None
        raise Refused(f"The database {source} cannot be copied: {error}") from None


def _source_path(folder: str, path: str) -> Path:
    """Return the absolute path, with the folder's links resolved if it is in the folder."""
    named, base = Path(folder, path), Path(folder)
    real = base.resolve() / named.relative_to(base) if named.is_relative_to(base) else named
    return Path(os.path.normpath(real))


def _check_no_link(source: Path, folder: str | None) -> None:
    """Refuse a link in the job's folder: a job may have made it, to a file that jobs may not read."""
    if source.is_relative_to(Path(folder or "/").resolve()) and folder is not None and source.resolve() != source:
        raise Refused(
            f"checkout.database names {source}, which is reached through a link",
            hint="Name the file by a path without links",
        )


def copy_database(url: str, name: str) -> None:
    """Create the database *name* on the server of *url* as a copy of the one that *url* names.

    Raises Unavailable when a retry may succeed, else Refused.
    """
    source = _name(url)
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source))
    try:
        with _server(url) as server:
            server.execute(_LIMIT)
            server.execute(statement)
    except errors.ObjectInUse:
        raise Unavailable(
            f"PostgreSQL cannot copy a database while clients are connected to it, as they are to {source}",
            hint="Close these connections, or clone a database that is not in use",
        ) from None
    except errors.InvalidCatalogName:
        raise Refused(f"There is no database {source} at {masked(url)}") from None
    except errors.InsufficientPrivilege:
        raise Refused(
            f"The user of {masked(url)} may not copy the database {source}",
            hint="The user must own it, and needs the right to create databases: ALTER ROLE … CREATEDB",
        ) from None
    except psycopg.OperationalError as error:
        raise Unavailable(f"The database {source} cannot be copied now: {last_line(str(error), _SHOWN)}") from None
    except psycopg.Error as error:
        raise Refused(f"The database {source} cannot be copied: {last_line(str(error), _SHOWN)}") from None


def drop_copy(url: str, name: str) -> None:
    """Drop the copy *name* on the server of *url*, even if clients are connected. Raises Unavailable."""
    try:
        with _server(url) as server:
            server.execute(_LIMIT)
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise Unavailable(f"The database {name} cannot be dropped: {last_line(str(error), _SHOWN)}") from None


def _server(url: str) -> psycopg.Connection:
    """Connect to the server of *url*, but not to its database, which must have no connection while it is copied."""
    parts = urlsplit(f"postgresql://{url.partition('://')[2]}")
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name in _OF_LIBPQ])
    server_url = parts._replace(path=f"/{_MAINTENANCE}", query=query).geturl()
    return psycopg.connect(server_url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT)


def _name(url: str) -> str:
    return unquote(urlsplit(f"postgresql://{url.partition('://')[2]}").path.strip("/"))
