"""Ids that a file has named so far, with what it said of each: on the disk, so that a file may be of any length."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Self

_TABLE = (
    "CREATE TABLE seen (id BLOB PRIMARY KEY, said INTEGER NOT NULL, line INTEGER NOT NULL, other INTEGER) WITHOUT ROWID"
)
_NOTE = (
    "INSERT INTO seen (id, said, line) VALUES (?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET other = excluded.line WHERE said <> excluded.said AND other IS NULL"
)


class DiskSet:
    """A database of its own in the folder for temporary files, gone when it is closed or its process has ended."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "PRAGMA cache_size = -32000",
            _TABLE,
        ):
            self._db.execute(statement)
        self._db.execute("CREATE INDEX others ON seen (other) WHERE other IS NOT NULL")

    def note(self, named: Sequence[tuple[str, int, int]]) -> tuple[int, int] | None:
        """Of (id, a number for what is said of it, line) each; the first (line, earlier line) that differ."""
        rows = [
            (blake2b(name.encode(errors="replace"), digest_size=16).digest(), said, line) for name, said, line in named
        ]
        self._db.execute("BEGIN")
        self._db.executemany(_NOTE, rows)
        self._db.execute("COMMIT")
        found: tuple[int, int] | None = self._db.execute(
            "SELECT other, line FROM seen WHERE other IS NOT NULL ORDER BY other LIMIT 1"
        ).fetchone()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
