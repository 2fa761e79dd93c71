"""Checks the locks of every transaction: a wait for rows against the common order is a potential deadlock.

A deadlock needs two transactions that meet at the right moment; one transaction alone shows the wrong order each time.
"""

from __future__ import annotations

import json
import re
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event

from coordination.store.engine import Store

ORDER = ("output_chunks", "tasks", "attempts", "slots", "budget_uses", "runs")
"""The tables whose rows are locked one after the other, as ``coordination.store.queries`` says."""

_LOCKS = re.compile(r"FOR (?:NO KEY )?UPDATE(?: OF (?P<alias>\w+))?(?P<how> NOWAIT| SKIP LOCKED)?")
_TABLE = re.compile(rf"(?:FROM|JOIN) (?P<table>{'|'.join(ORDER)})(?: (?:AS )?(?P<alias>\w+))?")
_DELETES = re.compile(rf"\s*DELETE FROM (?P<table>{'|'.join(ORDER)})\b")  # noqa: S608 - no statement
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_COMPLETION = "WITH ended AS MATERIALIZED"


@dataclass(slots=True)
class _Held:
    """The locks of a transaction: by table, the named rows; and where it locked any free rows of a table."""

    named: dict[str, set[str]] = field(default_factory=dict)
    taken_free: set[str] = field(default_factory=set)
    last: str = ORDER[0]


class Watch:
    """The locks of one store's transactions; ``wrong``: each wait against the order, with its transaction."""

    def __init__(self) -> None:
        self.wrong: set[str] = set()
        self.waits = 0
        self._lock = threading.Lock()

    @property
    def story(self) -> str:
        """Return all violations as text."""
        return "\n\n".join(sorted(self.wrong))

    def begin(self, connection: Connection) -> None:
        """Start a transaction without locks."""
        connection.info["held"] = _Held()

    def see(self, connection: Connection, statement: str, parameters: Any) -> None:
        """Check the locks that a statement takes."""
        for table, how in locks_of(statement):
            lock_state = connection.info.setdefault("held", _Held())
            ids = _named(table, parameters)
            if how is None:
                self._wait(lock_state, table, ids, statement)
            elif how == "SKIP LOCKED":
                lock_state.taken_free.add(table)
            lock_state.named.setdefault(table, set()).update(ids)
            lock_state.last = max(lock_state.last, table, key=ORDER.index)

    def _wait(self, held: _Held, table: str, ids: set[str], statement: str) -> None:
        self.waits += 1
        before = held.named.get(table, set())
        more = ids - before
        if not more:
            return
        why = None
        if ORDER.index(held.last) > ORDER.index(table):
            why = f"{table} after {held.last}"
        elif table in held.taken_free:
            why = f"more {table} after those that were free"
        elif before and min(more) < max(before):
            why = f"more {table}, not in the order of their ids"
        if why is not None:
            callers = [
                f"{frame.filename.rpartition('/coordination/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_stack()
                if "/coordination/" in frame.filename and "/site-packages/" not in frame.filename
            ]
            story = f"{why}: {' '.join(statement.split())[:150]}\n  " + "\n  ".join(callers)
            with self._lock:
                self.wrong.add(story)


def _named(table: str, parameters: Any) -> set[str]:
    """Return the ids of the rows: of slots the project's, of what is written as JSON the rows' own."""
    if not isinstance(parameters, dict):
        return set().union(*(_named(table, each) for each in parameters))
    if "rows" in parameters:
        return {one.get("id") or one["budget_id"] for one in json.loads(parameters["rows"])}
    if table == "slots":
        return {str(value) for name, value in parameters.items() if name.startswith("project")}
    scope = ("ws", "workspace", "project", "worker", "actor")
    return set(_ID.findall(str([value for name, value in parameters.items() if not name.startswith(scope)])))


def locks_of(statement: str) -> Iterator[tuple[str, str | None]]:
    """Return the tables of which a statement locks rows, and how (None: it waits for them).

    Updates are left out: they change rows that were locked before, and only the results said which rows those were.
    """
    if statement.lstrip().startswith(_COMPLETION):
        yield from (("tasks", None), ("attempts", None))
        return
    deleted = _DELETES.match(statement)
    if deleted is not None:
        yield deleted["table"], None
        return
    clause = _LOCKS.search(statement)
    if clause is None:
        return
    tables = {match["alias"] or match["table"]: match["table"] for match in _TABLE.finditer(statement)}
    table = tables.get(clause["alias"]) if clause["alias"] else next(iter(tables.values()), None)
    if table is not None:
        yield table, clause["how"].strip() if clause["how"] else None


@contextmanager
def watched_order(store: Store) -> Iterator[Watch]:
    """Check every transaction of the store until the end of the block."""
    watch = Watch()

    def statement(connection: Connection, _cursor: Any, text: str, parameters: Any, *_rest: Any) -> None:
        watch.see(connection, text, parameters)

    event.listen(store._write_engine, "begin", watch.begin)
    event.listen(store._write_engine, "before_cursor_execute", statement)
    try:
        yield watch
    finally:
        event.remove(store._write_engine, "begin", watch.begin)
        event.remove(store._write_engine, "before_cursor_execute", statement)
