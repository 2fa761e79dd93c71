"""What the servers could do at best on this machine: a Redis round trip, a bare commit, a commit of a hundred rows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import psycopg

from benchmarks.bench import Bench
from benchmarks.measure import Series, in_turns, series
from benchmarks.report import Line

_BATCH = 100


def measure(bench: Bench) -> list[Line]:
    """Milliseconds of one round trip or commit by one client, and rows per second of the batches."""
    trips, commits, batches = bench.size(5000), bench.size(500), bench.size(100)
    made = "CREATE TABLE rows (id bigint PRIMARY KEY, body text NOT NULL)"
    postgres = psycopg.connect(bench.blank_database())
    postgres.execute(made)
    postgres.commit()
    lite = sqlite3.connect(bench.folder / "limits.db", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):  # as our store has it
        lite.execute(f"PRAGMA {pragma}")
    lite.execute(made)
    client = bench.redis.client()
    rows = {"sqlite": _Rows(), "postgresql": _Rows()}

    def on_sqlite(size: int) -> None:
        lite.execute("BEGIN IMMEDIATE")
        lite.executemany("INSERT INTO rows VALUES (?, ?)", rows["sqlite"].some(size))
        lite.execute("COMMIT")

    def on_postgres(size: int) -> None:
        with postgres.cursor() as cursor:
            cursor.executemany("INSERT INTO rows VALUES (%s, %s)", rows["postgresql"].some(size))
        postgres.commit()

    try:
        taken = in_turns(
            bench.rounds,
            {
                "redis": _each(trips, client.ping),
                "sqlite": _each(commits, lambda: on_sqlite(1)),
                "postgresql": _each(commits, lambda: on_postgres(1)),
                "sqlite batch": _each(batches, lambda: on_sqlite(_BATCH)),
                "postgresql batch": _each(batches, lambda: on_postgres(_BATCH)),
            },
        )
    finally:
        client.close()
        lite.close()
        postgres.close()
    lines = [Line("an empty round trip", "redis", _milliseconds(taken["redis"]))]
    for kind in rows:
        batch = taken[f"{kind} batch"]
        lines += [
            Line("a commit of one row, reaching the disk", kind, _milliseconds(taken[kind])),
            Line(f"a commit of {_BATCH} rows, reaching the disk", kind, _milliseconds(batch)),
            Line(f"rows in commits of {_BATCH}", kind, series([_BATCH / seconds for seconds in batch], "rows/s")),
        ]
    return lines


class _Rows:
    """Rows that no commit had before."""

    def __init__(self) -> None:
        self._next = 0

    def some(self, count: int) -> list[tuple[int, str]]:
        first, self._next = self._next, self._next + count
        return [(number, "x" * 100) for number in range(first, self._next)]


def _each(count: int, act: Callable[[], object]) -> Callable[[], float]:
    """Seconds of one *act*, as the mean of *count*."""

    def timed() -> float:
        began = time.perf_counter()
        for _ in range(count):
            act()
        return (time.perf_counter() - began) / count

    return timed


def _milliseconds(seconds: list[float]) -> Series:
    return series([value * 1000 for value in seconds], "ms")
