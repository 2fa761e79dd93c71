"""Reads the store with statements of its own: tasks, edges, attempts, events, costs, runs, slots."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import unquote

import psycopg
from psycopg import rows as pg_rows


class Task(NamedTuple):
    """One task's row."""

    id: str
    project_id: str
    run_id: str
    key: str
    state: str
    attempt: int
    repeatable: bool
    concurrency_key: str | None
    on_dependency_failure: str
    reasons: int
    error: str | None


class Attempt(NamedTuple):
    """One attempt's row."""

    task_id: str
    number: int
    outcome: str | None
    output: Any
    error: str | None
    lease_until: datetime
    finished_at: datetime | None


class Event(NamedTuple):
    """One row of the log. ``seq`` is assigned after the commit of everything that it depends on."""

    seq: int
    run_id: str | None
    task_id: str | None
    attempt: int | None
    type: str
    payload: dict[str, Any]


class Cost(NamedTuple):
    """One row of the ledger; ``call`` is the name that the job gave it."""

    id: str
    task_id: str | None
    attempt: int | None
    usd: Decimal | None
    stale: bool
    call: str | None


@dataclass(slots=True)
class Facts:
    """All rows that the rules read."""

    tasks: dict[str, Task]
    attempts: dict[str, list[Attempt]]
    events: list[Event]
    parents: dict[str, list[str]]
    unsatisfied: set[tuple[str, str]]
    costs: list[Cost]
    runs: dict[str, bool]  # whether its end is written
    slots: list[tuple[str, str, int]]  # project, name, used
    projects: dict[str, str]  # id -> name

    def events_of_tasks(self) -> dict[str, list[Event]]:
        """Return the events of each task."""
        matches: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.task_id is not None:
                matches[event.task_id].append(event)
        return matches


def read(url: str) -> Facts:
    """Read the whole store; both databases give the same."""
    attempts: dict[str, list[Attempt]] = defaultdict(list)
    for row in _rows(
        url,
        "SELECT task_id, number, outcome, output, error, lease_until, finished_at "
        "FROM attempts ORDER BY task_id, number",
    ):
        task, number, outcome, output, error, lease, finished = row
        attempts[str(task)].append(
            Attempt(str(task), number, outcome, _json(url, output), error, _moment(lease), _moment(finished))
        )
    parents: dict[str, list[str]] = defaultdict(list)
    unsatisfied = set()
    for parent, child, satisfied in _rows(
        url, "SELECT parent_id, child_id, satisfied_at FROM dependencies WHERE kind IN ('blocks', 'parent-child')"
    ):
        parents[str(child)].append(str(parent))
        if satisfied is None:
            unsatisfied.add((str(parent), str(child)))
    return Facts(
        tasks={
            str(row[0]): Task(*map(str, row[:3]), *row[3:6], bool(row[6]), *row[7:])
            for row in _rows(
                url,
                "SELECT id, project_id, run_id, key, state, attempt, repeatable, concurrency_key, "
                "on_dependency_failure, reasons, error FROM tasks",
            )
        },
        attempts=dict(attempts),
        events=[
            Event(seq, _text(run), _text(task), attempt, kind, _json(url, payload) or {})
            for seq, run, task, attempt, kind, payload in _rows(
                url, "SELECT seq, run_id, task_id, attempt, type, payload FROM events ORDER BY seq"
            )
        ],
        parents=dict(parents),
        unsatisfied=unsatisfied,
        costs=[
            Cost(id_, _text(task), attempt, _usd(usd), bool(stale), (_json(url, extra) or {}).get("call"))
            for id_, task, attempt, usd, stale, extra in _rows(
                url, "SELECT id, task_id, attempt, cost_usd, stale, extra FROM costs"
            )
        ],
        runs={str(id_): end is not None for id_, end in _rows(url, "SELECT id, finished_at FROM runs")},
        slots=[
            (str(project), name, used) for project, name, used in _rows(url, "SELECT project_id, name, used FROM slots")
        ],
        projects={str(id_): name for id_, name in _rows(url, "SELECT id, name FROM projects")},
    )


def _rows(url: str, statement: str) -> Iterator[tuple[Any, ...]]:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(unquote(url.removeprefix("sqlite:///")))
        try:
            yield from connection.execute(statement)
        finally:
            connection.close()
        return
    plain = url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain, row_factory=pg_rows.tuple_row) as connection:
        yield from connection.execute(statement.encode())


def _json(url: str, value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and url.startswith("sqlite") else value


def _moment(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _usd(value: Any) -> Decimal | None:
    return None if value is None else Decimal(value)
