"""Faults of the store: PostgreSQL restarted, its backends ended, killed, stopped; SQLite locked, its disk full."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import suppress

import psutil
import psycopg

from tests.chaos.faults.base import Fault, Hit, Later
from tests.chaos.stack import LEASE, Stack


class _OfPostgres(Fault):
    @classmethod
    def possible(cls, stack: Stack) -> bool:
        return stack.postgres is not None


class PostgresRestarted(_OfPostgres):
    """An immediate shutdown, and a start with crash recovery."""

    name, weight, gap, lasts, broad = "PostgreSQL restarted", 1, 15.0, (0.1, 2.0), True

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        assert stack.postgres is not None
        if not stack.postgres.answers:
            return None
        stack.postgres.down(signal.SIGQUIT)
        return Hit(f"for {self.duration:.2f} s", heal=stack.postgres.up)


class PostgresAwayLong(PostgresRestarted):
    """Down for longer than a lease: every worker must have ended its jobs itself."""

    name, weight, gap, lasts = "PostgreSQL away, longer than a lease", 0.4, 60.0, (LEASE + 1, LEASE + 6)


class PostgresAwayForMinutes(PostgresRestarted):
    """Down for more than a minute: all back-offs have reached their longest pause."""

    name, weight, gap, lasts = "PostgreSQL away for minutes", 0.2, 400.0, (60.0, 100.0)


class BackendsEnded(_OfPostgres):
    """pg_terminate_backend of some, or all."""

    name, weight = "PostgreSQL connections ended", 12

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        assert stack.postgres is not None
        if not stack.postgres.answers:
            return None
        most = (1, 2, 5, 100)[self.number % 4]
        statement = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coordination' "  # noqa: S608
            f"ORDER BY md5(pid::text || '{self.number}') LIMIT {most}"
        )
        with suppress(psycopg.Error):
            ended = stack.postgres.execute(statement)
            return Hit(f"{len(ended)}") if ended else None
        return None


class BackendKilled(_OfPostgres):
    """kill -9 of one backend: PostgreSQL ends all others too and recovers."""

    name, weight, gap, broad = "PostgreSQL backend killed", 1.5, 10.0, True

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        backends = _backends(stack)
        if not backends:
            return None
        with suppress(psutil.Error):
            backends[self.number % len(backends)].kill()
            return Hit("one")
        return None


class BackendsStopped(_OfPostgres):
    """SIGSTOP of some backends, with all their locks."""

    name, weight, gap, lasts, broad = "PostgreSQL backends stopped", 4, 2.0, (0.1, 2.0), True

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        backends = _backends(stack)
        chosen = [each for place, each in enumerate(backends) if (self.number >> place % 30) & 1]
        if not chosen:
            return None
        assert stack.postgres is not None
        postgres = stack.postgres
        for each in chosen:
            with suppress(psutil.Error):
                each.suspend()
        postgres.stopped += 1

        def heal() -> None:
            for each in chosen:
                with suppress(psutil.Error):
                    each.resume()
            postgres.stopped -= 1

        return Hit(f"{len(chosen)} of {len(backends)} for {self.duration:.2f} s", heal=heal)


class SqliteLocked(Fault):
    """Another program holds the write lock."""

    name, weight, gap, lasts, broad = "SQLite locked by another program", 5, 1.5, (0.1, 2.5), True

    @classmethod
    def possible(cls, stack: Stack) -> bool:
        return stack.postgres is None

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        path = stack.store_disk.place / "chaos.db"
        connection = sqlite3.connect(path, timeout=0.3, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            connection.close()
            return None
        return Hit(f"for {self.duration:.2f} s", heal=connection.close)


class SqliteLockedLong(SqliteLocked):
    """The same, for longer than a lease."""

    name, weight, gap, lasts = "SQLite locked, longer than a lease", 0.4, 45.0, (LEASE + 1, LEASE + 4)


class SqliteDiskFull(Fault):
    """No space on the disk with the database."""

    name, weight, gap, lasts, broad = "disk full for SQLite", 1.5, 8.0, (0.3, 3.0), True

    @classmethod
    def possible(cls, stack: Stack) -> bool:
        return stack.postgres is None and stack.store_disk.mounted

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        if stack.store_disk.is_full:
            return None
        stack.store_disk.fill()
        return Hit(f"for {self.duration:.2f} s", heal=stack.store_disk.free)


class SqliteDiskFullLong(SqliteDiskFull):
    """The same, for longer than a lease."""

    name, weight, gap, lasts = "disk full for SQLite, longer than a lease", 0.4, 45.0, (LEASE + 1, LEASE + 4)


def _backends(stack: Stack) -> list[psutil.Process]:
    return stack.postgres.backends() if stack.postgres is not None and stack.postgres.answers else []


KINDS: tuple[type[Fault], ...] = (
    *(PostgresRestarted, PostgresAwayLong, PostgresAwayForMinutes, BackendsEnded, BackendKilled, BackendsStopped),
    *(SqliteLocked, SqliteLockedLong, SqliteDiskFull, SqliteDiskFullLong),
)
