"""Test that migrations end with the metadata, and that newer or unreleased schemas are refused; on both databases."""

import threading

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from coordination.base.errors import SchemaMismatch
from coordination.store import schema
from coordination.store.engine import open_store
from coordination.store.migrations import configuration, upgrade
from tests.support.first_schema import create_first_schema
from tests.support.refusals import refuses

pytestmark = pytest.mark.own_database

PG_SHAPE = """
SELECT 'column', table_name, column_name, data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'option', relname, '', array_to_string(reloptions, ',')
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid)
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', proname, '', prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


def shape(tx: Connection) -> set[tuple[str, ...]]:
    """Return the database's catalogue of its tables, as texts."""
    if tx.dialect.name == "postgresql":
        return {tuple(row) for row in tx.execute(text(PG_SHAPE))}
    matches = set()
    for kind, name, sql in tx.execute(text("SELECT type, name, sql FROM sqlite_master")).all():
        if kind == "table":
            # CREATE TABLE lists columns and constraints in any order; the set of them does not.
            matches |= {(kind, name, item) for item in items(sql or "")}
        else:
            matches.add((kind, name, " ".join((sql or "").split())))
    return matches


def items(sql: str) -> set[str]:
    """Return the parts between the commas of a CREATE TABLE, without splitting inner brackets."""
    result, depth = [""], 0
    for character in sql[sql.index("(") + 1 : sql.rindex(")")]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            result.append("")
        else:
            result[-1] += character
    return {" ".join(item.split()) for item in result} | {sql[sql.rindex(")") + 1 :]}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_migrated_schema_is_the_metadata(kind: str, request: pytest.FixtureRequest) -> None:
    migrated = open_store(request.getfixturevalue(f"blank_{kind}_url"))
    opened = open_store(request.getfixturevalue(f"{kind}_url"))
    create_first_schema(migrated)

    upgrade(migrated)

    with migrated.read() as tx, opened.read() as other:
        assert shape(tx) == shape(other)
    migrated.close()
    opened.close()


def test_the_program_knows_the_newest_migration() -> None:
    scripts = ScriptDirectory.from_config(configuration())

    assert scripts.get_heads() == [schema.HEAD]
    assert {script.revision for script in scripts.walk_revisions()} == set(schema.KNOWN)


def test_a_migration_of_an_empty_database_says_what_creates_its_tables_and_changes_nothing(
    blank_store_url: str,
) -> None:
    opened = open_store(blank_store_url)

    with refuses(SchemaMismatch):
        upgrade(opened)

    assert schema.current(opened) is None
    schema.prepare(opened)
    schema.require(opened)
    opened.close()


def test_an_empty_database_is_prepared_once_by_many_at_once(blank_store_url: str) -> None:
    errors: list[BaseException] = []

    def prepare() -> None:
        opened = open_store(blank_store_url)
        try:
            schema.prepare(opened)
            schema.require(opened)
        except BaseException as error:  # noqa: BLE001 - collected for the assertion
            errors.append(error)
        finally:
            opened.close()

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []


def test_every_migration_says_which_programs_still_work_and_never_takes_that_back() -> None:
    scripts = ScriptDirectory.from_config(configuration())
    oldest_first = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    works_with = [scripts.get_revision(revision).module.works_with for revision in oldest_first]

    assert oldest_first == list(schema.KNOWN)
    assert works_with[-1] == schema.WORKS_WITH
    assert works_with == sorted(works_with)
    assert all(oldest <= revision for oldest, revision in zip(works_with, oldest_first, strict=True))


@pytest.mark.parametrize("noted", ["DELETE FROM schema_compatibility", "DROP TABLE schema_compatibility"])
def test_a_newer_schema_that_says_nothing_about_older_programs_is_refused(store, noted: str) -> None:
    with store.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        tx.execute(text(noted))

    with refuses(SchemaMismatch):
        schema.require(store)
    with refuses(SchemaMismatch):
        schema.prepare(store)


def test_a_newer_schema_is_refused_when_it_has_lost_what_this_program_needs(store) -> None:
    with store.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        tx.execute(text("UPDATE schema_compatibility SET works_with = '9998'"))

    with refuses(SchemaMismatch):
        schema.require(store)


def test_a_newer_schema_that_was_only_added_to_is_worked_with(store) -> None:
    with store.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    schema.require(store)
    schema.prepare(store)

    assert schema.current(store) == "9999"


def test_a_database_without_tables_says_what_to_do(blank_store_url: str) -> None:
    opened = open_store(blank_store_url)

    with refuses(SchemaMismatch):
        schema.require(opened)
    opened.close()


@pytest.mark.parametrize("version", ["0001", "0004", "0006"])
def test_an_unreleased_schema_is_refused_with_export_and_import_named_and_left_as_it_is(
    blank_store_url: str, version: str
) -> None:
    opened = open_store(blank_store_url)
    with opened.write() as tx:
        tx.execute(text("CREATE TABLE workspaces (id VARCHAR(36) NOT NULL PRIMARY KEY, name TEXT NOT NULL)"))
        tx.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        tx.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": version})
        tx.execute(text("CREATE TABLE schema_compatibility (works_with VARCHAR(32) NOT NULL PRIMARY KEY)"))
        tx.execute(text("INSERT INTO schema_compatibility VALUES ('0001')"))
        before = shape(tx)

    for open_it in (schema.require, schema.prepare):
        with refuses(SchemaMismatch) as refused:
            open_it(opened)
        hint = refused.value.hint or ""
        assert "`coord costs export > costs.jsonl`" in hint
        assert "`COORD_HOME=NEW_FOLDER coord agents import agents.json`" in hint

    with opened.read() as tx:
        assert shape(tx) == before
        assert tx.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [version]
    opened.close()
