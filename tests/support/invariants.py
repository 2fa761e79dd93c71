"""Invariants that hold in any store at any time, checked on the tables alone, with statements of this module."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from coordination.store.engine import Store

OPEN = ("blocked", "queued", "running")
DEPENDENCIES = 1


@dataclass(frozen=True)
class Tables:
    """The rows of one moment."""

    tasks: dict[str, Any]
    edges: list[Any]
    attempts: list[Any]
    slots: list[Any]
    runs: list[Any]
    supervisors: dict[str, Any]


def broken(store: Store, *, waived: Collection[str] = ()) -> list[str]:
    """Return a sentence for each violated invariant; *waived*: tasks that were forced to run without their needs.

    Only for stores in which no transaction is open.
    """
    with store.read() as tx:

        def rows(statement: str) -> list[Any]:
            return list(tx.execute(text(statement)).mappings())

        result = Tables(
            tasks={str(row["id"]): row for row in rows("SELECT * FROM tasks")},
            edges=rows("SELECT * FROM dependencies WHERE kind IN ('blocks', 'parent-child')"),
            attempts=rows("SELECT * FROM attempts"),
            slots=rows("SELECT * FROM slots"),
            runs=rows("SELECT * FROM runs"),
            supervisors={str(row["project_id"]): row for row in rows("SELECT * FROM supervisors")},
        )
    return [
        sentence
        for holds, sentence in (
            *_tasks(result),
            *_attempts(result),
            *_edges(result, waived),
            *_slots(result),
            *_runs(result),
        )
        if not holds
    ]


def _tasks(found: Tables) -> Iterator[tuple[bool, str]]:
    unmet = Counter(str(edge["child_id"]) for edge in found.edges if edge["satisfied_at"] is None)
    for task_id, task in found.tasks.items():
        name, state = task["key"], task["state"]
        if state == "blocked":
            yield task["pending"] == unmet[task_id], f"{name} counts {task['pending']} needs, has {unmet[task_id]}"
            blocked = bool(task["reasons"] & DEPENDENCIES)
            yield (
                blocked == (unmet[task_id] > 0),
                f"{name} is blocked by dependencies: {blocked}, with {unmet[task_id]}",
            )
        if state in ("queued", "running"):
            yield not unmet[task_id], f"{name} is {state} and waits for {unmet[task_id]}"


def _attempts(found: Tables) -> Iterator[tuple[bool, str]]:
    tried: dict[str, list[Any]] = {}
    for row in found.attempts:
        tried.setdefault(str(row["task_id"]), []).append(row)
    yield tried.keys() <= found.tasks.keys(), f"attempts of {tried.keys() - found.tasks.keys()}, which are no tasks"
    for task_id, task in found.tasks.items():
        name, rows = task["key"], tried.get(task_id, [])
        numbers = [row["number"] for row in rows if row["finished_at"] is None]
        yield len(numbers) <= 1, f"{name} has the attempts {numbers} open"
        if task["state"] == "running":
            yield numbers == [task["attempt"]], f"{name} runs as {task['attempt']}, open are {numbers}"
        if task["state"] == "completed":
            outcomes = [row["outcome"] for row in rows if row["number"] == task["attempt"]]
            yield outcomes == ["completed"], f"{name} completed without its evidence"


def _edges(found: Tables, waived: Collection[str]) -> Iterator[tuple[bool, str]]:
    for edge in found.edges:
        parent, child = found.tasks.get(str(edge["parent_id"])), found.tasks.get(str(edge["child_id"]))
        if parent is None or child is None:
            yield False, f"an edge from {edge['parent_id']} to {edge['child_id']}, which are not both tasks"
            continue
        pair = f"{parent['key']} -> {child['key']}"
        if edge["satisfied_at"] is not None and str(edge["child_id"]) not in waived:
            anyway = child["on_dependency_failure"] == "run" and parent["state"] in ("failed", "canceled")
            due = parent["state"] == "completed" or anyway or child["attempt"] > 0
            yield due, f"{pair} is satisfied, and the parent {parent['state']}"
        if edge["satisfied_at"] is None and child["state"] in OPEN:
            yield parent["state"] != "completed", f"{pair} is open, although the parent completed"


def _slots(found: Tables) -> Iterator[tuple[bool, str]]:
    used: Counter[tuple[str, str]] = Counter()
    for row in found.attempts:
        names = json.loads(row["slots"]) if isinstance(row["slots"], str) else row["slots"]
        if row["finished_at"] is None:
            used.update((str(row["project_id"]), name) for name in names or ())
    for slot in found.slots:
        now = used[str(slot["project_id"]), slot["name"]]
        yield slot["used"] == now, f"the slot {slot['name']} counts {slot['used']}, held are {now}"


def _runs(found: Tables) -> Iterator[tuple[bool, str]]:
    for run in found.runs:
        open_ = [task["key"] for task in found.tasks.values() if task["run_id"] == run["id"] and task["state"] in OPEN]
        yield (run["finished_at"] is None) == bool(open_), f"a run ended at {run['finished_at']}, open are {open_}"
        if open_:
            supervisor = found.supervisors.get(str(run["project_id"]))
            yield supervisor is not None and supervisor["ended_at"] is None, "open tasks without a supervisor"
