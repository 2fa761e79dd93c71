"""Very many finished runs in a store, copied inside the database from one that really ran."""

# ruff: noqa: S608 - the SQL is made of names from the schema and of numbers

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, select, text

from coordination.store.tables import metadata
from coordination.store.types import db_after

_ORDER = ("runs", "tasks", "attempts", "events", "dependencies")


def pile_up(
    tx: Connection,
    run_id: str,
    task_id: str,
    *,
    tasks: int,
    per_run: int = 1000,
    first: int = 0,
    ended: timedelta = timedelta(days=1),
    only: frozenset[str] = frozenset(_ORDER),
) -> None:
    """Copy a finished task, its attempts and its events *tasks* times, *per_run* of them to a copy of its run.

    The runs are chains: each task but a run's first needs the one before it. They *ended* that long ago. The copies'
    ids sort before all that are created now, in their order; *first* is the number of the first one, a multiple of
    *per_run*, for a further pile. *only* these tables are filled.
    """
    sqlite = tx.dialect.name == "sqlite"
    ended_at = tx.execute(select(db_after(-ended.total_seconds()))).scalar_one()

    def run(number: str) -> str:
        return _id("02", f"({number}) / {per_run}", sqlite=sqlite)

    def task(number: str) -> str:
        return _id("01", number, sqlite=sqlite)

    changes: dict[str, dict[str, str]] = {
        "runs": {"id": _id("02", f"n.i + {first // per_run}", sqlite=sqlite), "finished_at": ":ended"},
        "tasks": {"id": task(f"n.i + {first}"), "run_id": run(f"n.i + {first}"), "key": f"'old-' || (n.i + {first})"},
        "attempts": {"task_id": task(f"n.i + {first}"), "run_id": run(f"n.i + {first}")},
        "events": {"task_id": task(f"n.i + {first}"), "run_id": run(f"n.i + {first}")},
    }
    of_seed = {"runs": "o.id = :run", "tasks": "o.id = :task"}
    ended_text = ended_at.isoformat(timespec="microseconds") if sqlite else ended_at
    for name, changed in changes.items():
        if name not in only:
            continue
        columns = [column.name for column in metadata.tables[name].c if column.name != "seq"]
        values = ", ".join(changed.get(column, f"o.{column}") for column in columns)
        fields = {"run" if name == "runs" else "task": run_id if name == "runs" else task_id}
        count = -(-tasks // per_run) if name == "runs" else tasks
        # The loop over copies is outermost: their rows come in the order of their ids, as in a store that grew.
        tx.execute(
            text(
                f"INSERT INTO {name} ({', '.join(columns)}) {_numbers(count, sqlite=sqlite)} SELECT {values} "
                f"FROM n CROSS JOIN {name} o WHERE {of_seed.get(name, 'o.task_id = :task')}"
            ),
            fields | ({"ended": ended_text} if name == "runs" else {}),
        )
    if "dependencies" in only:
        parent, child = task(f"n.i + {first} - 1"), task(f"n.i + {first}")
        tx.execute(
            text(
                "INSERT INTO dependencies (parent_id, child_id, workspace_id, kind, satisfied_at) "
                f"{_numbers(tasks, sqlite=sqlite)} SELECT {parent}, {child}, o.workspace_id, 'blocks', o.finished_at "
                f"FROM n CROSS JOIN tasks o WHERE o.id = :task AND n.i % {per_run} <> 0"
            ),
            {"task": task_id},
        )


def _numbers(count: int, *, sqlite: bool) -> str:
    if sqlite:
        return f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"
    return f"WITH n AS MATERIALIZED (SELECT i FROM generate_series(0, {count - 1}) AS i)"


def _id(kind: str, number: str, *, sqlite: bool) -> str:
    """Return an id that sorts by its number, and before all ids of this century."""
    if sqlite:
        return f"printf('{kind}000000-0000-7000-8000-%012x', {number})"
    return f"('{kind}000000-0000-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid"
