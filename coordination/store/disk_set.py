"""A set of the ids in a file in a temporary database, with a number each, for more ids than fit in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from typing import Self

_TABLE = (
    "CREATE TABLE ids (id BLOB PRIMARY KEY, content INTEGER NOT NULL, line INTEGER NOT NULL, other INTEGER)"
    " WITHOUT ROWID"
)
_NOTE = (
    "INSERT INTO ids (id, content, line) VALUES (?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET other = excluded.line WHERE content <> excluded.content AND other IS NULL"
)


class DiskSet:
    """A temporary database that is deleted when it is closed or its process ends."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -32000"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute(_TABLE)
        self._db.execute("CREATE INDEX others ON ids (other) WHERE other IS NOT NULL")

    def note(self, items: Sequence[tuple[str, int, int]]) -> tuple[int, int] | None:
        """Add (id, number for its content, line) items.

        Return the first (line, earlier line) with different content.
        """
        rows = [
            (blake2b(name.encode(errors="replace"), digest_size=16).digest(), content, line)
            for name, content, line in items
        ]
        self._db.execute("BEGIN")
        self._db.executemany(_NOTE, rows)
        self._db.execute("COMMIT")
        conflict: tuple[int, int] | None = self._db.execute(
            "SELECT other, line FROM ids WHERE other IS NOT NULL ORDER BY other LIMIT 1"
        ).fetchone()
        return conflict

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._db.close()
