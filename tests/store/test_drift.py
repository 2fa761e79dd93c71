"""Test whether the catalogue matches the program, whatever the version number is; on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from coordination.store.drift import differences
from coordination.store.engine import Store, open_store
from coordination.store.migrations import upgrade
from tests.support.first_schema import create_first_schema

pytestmark = pytest.mark.own_database


def drift_of(store: Store) -> list[str]:
    with store.read() as tx:
        return differences(tx)


def change(store: Store, *statements: str) -> None:
    with store.write() as tx:
        for statement in statements:
            tx.execute(text(statement))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_schema_that_was_made_or_migrated_has_no_differences(kind: str, request: pytest.FixtureRequest) -> None:
    store = open_store(request.getfixturevalue(f"{kind}_url"))
    migrated = open_store(request.getfixturevalue(f"blank_{kind}_url"))
    create_first_schema(migrated)
    upgrade(migrated)

    assert drift_of(store) == []
    assert drift_of(migrated) == []
    store.close()
    migrated.close()


def test_what_is_missing_is_named(store: Store) -> None:
    of = " ON costs" if store.dialect == "postgresql" else ""
    change(
        store,
        "DROP INDEX ix_tasks_ready",
        "ALTER TABLE workers DROP COLUMN draining_at",
        "DROP TABLE issues",
        f"DROP TRIGGER costs_append_only{of}",
    )

    assert drift_of(store) == [
        "the column draining_at of workers is missing",
        "the index ix_tasks_ready of tasks is missing",
        "the table issues is missing",
        "the trigger costs_append_only of costs is missing",
    ]


def test_what_was_loosened_is_named(postgres_url: str) -> None:
    store = open_store(postgres_url)
    change(
        store,
        "ALTER TABLE tasks DROP CONSTRAINT ck_tasks_blocked_iff_reasons",
        "ALTER TABLE tasks ALTER COLUMN key DROP NOT NULL",
        "ALTER TABLE tasks ALTER COLUMN priority TYPE text",
        "ALTER TABLE runs DROP CONSTRAINT fk_runs_session_id",
    )

    assert drift_of(store) == [
        "the column key of tasks may be null",
        "the column priority of tasks is TEXT, not INTEGER",
        "the constraint ck_tasks_blocked_iff_reasons of tasks is missing",
        "the constraint fk_runs_session_id of runs is missing",
    ]
    store.close()


@pytest.mark.parametrize(
    "addition",
    ["CREATE INDEX my_own ON tasks (title)", "ALTER TABLE tasks ADD COLUMN colour text", "CREATE TABLE notes (id int)"],
)
def test_what_somebody_added_is_no_difference(store: Store, addition: str) -> None:
    change(store, addition)

    assert drift_of(store) == []
