"""Differences between a database's catalogue and the expected schema, whatever its version says. Read-only.

Only missing or different objects count: newer schemas add objects, and additional indexes do no harm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import CheckConstraint, Connection, inspect, text

from coordination.store import schema  # noqa: F401 - fills the metadata
from coordination.store.tables import ONLY_ON, metadata

_TRIGGERS = {"costs_append_only": "costs"}

# By name only: alembic does not compare expressions and conditions of indexes, and cannot read SQLite's.
_NAMES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type IN ('index', 'trigger')",
    "postgresql": (
        "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() "
        "UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
    ),
}


def differences(tx: Connection) -> list[str]:
    """Return half sentences such as ``the index ix_tasks_ready of tasks is missing``; empty without differences."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(
        tx, opts={"compare_type": True, "include_object": _compared_objects(tx.dialect.name)}
    )
    present = set(inspect(tx).get_table_names())
    with warnings.catch_warnings(action="ignore"):  # it warns of indexes that it cannot compare
        changes = compare_metadata(context, metadata)
    sentences = {sentence for change in _flat(changes) if (sentence := _sentence(change))}
    return sorted(sentences | set(_missing_by_name(tx, present)) | set(_missing_checks(tx, present)))


def _compared_objects(dialect: str) -> Callable[..., bool]:
    def is_compared(thing: Any, _name: str | None, kind: str, reflected: bool, counterpart: Any) -> bool:  # noqa: FBT001 - alembic calls it
        if kind == "index" or (reflected and counterpart is None):
            return False
        return kind != "foreign_key_constraint" or thing.info.get(ONLY_ON, dialect) == dialect

    return is_compared


def _flat(changes: Any) -> Iterator[tuple[Any, ...]]:
    """Yield changes one by one; alembic returns those of one column as a nested list."""
    for change in changes:
        yield from change if isinstance(change, list) else [change]


def _sentence(change: tuple[Any, ...]) -> str | None:
    match change[0]:
        case "add_table":
            return f"the table {change[1].name} is missing"
        case "add_column":
            return f"the column {change[3].name} of {change[2]} is missing"
        case "add_fk" | "add_constraint":
            return f"the constraint {change[1].name} of {change[1].table.name} is missing"
        case "modify_nullable":
            return f"the column {change[3]} of {change[2]} {'may' if change[5] else 'may not'} be null"
        case "modify_type":
            return f"the column {change[3]} of {change[2]} is {change[5]}, not {change[6]}"
    return None


def _missing_by_name(tx: Connection, present: set[str]) -> Iterator[str]:
    names = set(tx.execute(text(_NAMES[tx.dialect.name])).scalars())
    for table in metadata.sorted_tables:
        for index in table.indexes:
            if table.name in present and index.name not in names:
                yield f"the index {index.name} of {table.name} is missing"
    for trigger, table_name in _TRIGGERS.items():
        if table_name in present and trigger not in names:
            yield f"the trigger {trigger} of {table_name} is missing"


def _missing_checks(tx: Connection, present: set[str]) -> Iterator[str]:
    catalogue = inspect(tx)
    for table in metadata.sorted_tables:
        if table.name not in present:
            continue
        check_names = {check["name"] for check in catalogue.get_check_constraints(table.name)}
        for constraint in table.constraints:
            if isinstance(constraint, CheckConstraint) and constraint.name not in check_names:
                yield f"the constraint {constraint.name} of {table.name} is missing"
