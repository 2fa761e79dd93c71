"""Test how the store is opened and used: transient errors are retried, others are reported in one sentence."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, event, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from coordination.base.errors import DatabaseUnavailable
from coordination.store import schema
from coordination.store.driver import rows
from coordination.store.engine import Store, is_transient, open_store, sqlite_path
from coordination.store.queries.projects import projects
from coordination.store.tables.projects.projects import workspaces
from tests.support.refusals import refuses
from tests.support.speed import patience

pytestmark = pytest.mark.own_database

LOCKER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
held.execute("ROLLBACK")
"""


def names(store: Store) -> set[str]:
    with store.read() as tx:
        return set(tx.execute(select(workspaces.c.name)).scalars())


def test_an_exception_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(RuntimeError, match="stop"), store.write() as tx:  # noqa: PT012 - the block includes the setup
        projects.get_or_create_workspace(tx, "half")
        raise RuntimeError("stop")

    assert names(store) == set()


def test_a_reading_transaction_refuses_to_write(store: Store) -> None:
    with store.read() as tx, pytest.raises(DBAPIError, match=r"read-?only"):
        projects.get_or_create_workspace(tx, "sneaky")

    assert names(store) == set()
    with store.write() as tx:  # the pooled connection may write again
        projects.get_or_create_workspace(tx, "fine")
    assert names(store) == {"fine"}


def test_a_read_sees_one_moment_and_the_next_read_sees_the_present(store: Store) -> None:
    with store.read() as tx:
        before = set(tx.execute(select(workspaces.c.name)).scalars())
        with store.write() as other:
            projects.get_or_create_workspace(other, "meanwhile")
        after = set(tx.execute(select(workspaces.c.name)).scalars())

    assert before == after == set()
    assert names(store) == {"meanwhile"}


def test_what_the_database_refuses_for_good_is_not_tried_again(store: Store) -> None:
    tries = []

    def breaks_a_rule(tx) -> None:
        tries.append(1)
        tx.execute(text("INSERT INTO workspaces (id, name, created_at) VALUES (NULL, NULL, NULL)"))

    with pytest.raises(IntegrityError):
        store.transact(breaks_a_rule)

    assert len(tries) == 1


def test_a_connection_killed_in_the_middle_is_replaced_and_the_work_repeated(postgres_url: str) -> None:
    store = open_store(postgres_url)
    killed = []

    def work(tx) -> str:
        backend = tx.execute(text("SELECT pg_backend_pid()")).scalar()
        projects.get_or_create_workspace(tx, "once")
        if not killed:
            killed.append(backend)
            plain = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        return projects.get_or_create_workspace(tx, "once")

    created = store.transact(work)

    assert names(store) == {"once"}
    assert created
    store.close()


class TestRowsOfTheDriver:
    """Test statements of claims and ends, which bypass SQLAlchemy unless a listener is registered."""

    def test_they_are_what_sqlalchemy_gives_whether_or_not_somebody_listens(self, store: Store) -> None:
        heard: list[str] = []

        def listener(_connection, _cursor, statement: str, *_rest) -> None:
            heard.append(statement)

        with store.read() as tx:
            quiet = rows(tx, "SELECT 1, 'two'", {})
            event.listen(tx.engine, "before_cursor_execute", listener)
        with store.read() as tx:
            loud = rows(tx, "SELECT 1, 'two'", {})
        event.remove(tx.engine, "before_cursor_execute", listener)

        assert quiet == [tuple(row) for row in loud] == [(1, "two")]
        assert heard[-1] == "SELECT 1, 'two'"

    def test_what_the_database_refuses_is_the_error_of_sqlalchemy(self, store: Store) -> None:
        with pytest.raises(DBAPIError, match="nothing_here") as raised, store.write() as tx:
            rows(tx, "SELECT * FROM nothing_here", {})

        assert not is_transient(raised.value)
        assert names(store) == set()  # the connection serves the next

    def test_a_connection_killed_before_is_replaced_and_the_work_repeated(self, postgres_url: str) -> None:
        store = open_store(postgres_url)
        tries = []

        def work(tx: Connection) -> list:
            backend = tx.execute(text("SELECT pg_backend_pid()")).scalar()
            tries.append(backend)
            if len(tries) == 1:
                plain = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
                with psycopg.connect(plain, autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
            return rows(tx, "SELECT %(n)s::int", {"n": 7})

        assert store.transact(work) == [(7,)]
        assert len(set(tries)) == 2
        store.close()


@pytest.mark.deadlocks
def test_one_of_two_in_a_deadlock_is_tried_again(postgres_url: str) -> None:
    store = open_store(postgres_url)
    with store.write() as tx:
        tx.execute(text("CREATE TABLE pair (id int PRIMARY KEY, n int)"))
        tx.execute(text("INSERT INTO pair VALUES (1, 0), (2, 0)"))
    met = threading.Barrier(2)
    tries: list[int] = []

    def both(first: int, second: int) -> None:
        def work(tx) -> None:
            tries.append(first)
            tx.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            tx.execute(text("UPDATE pair SET n = n + 1 WHERE id = :id"), {"id": first})
            if tries.count(first) == 1:
                met.wait(patience(10))
            tx.execute(text("UPDATE pair SET n = n + 1 WHERE id = :id"), {"id": second})

        store.transact(work)

    threads = [threading.Thread(target=both, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.read() as tx:
        assert list(tx.execute(text("SELECT n FROM pair"))) == [(2,), (2,)]
    assert len(tries) == 3
    store.close()


SEEN = text("SELECT id FROM wanted")


class TestALockThatSomebodyElseHolds:
    @pytest.fixture
    def held(self, postgres_url: str) -> Iterator[Store]:
        """Provide a store with a row that another transaction locks until the end of the block."""
        store, other = open_store(postgres_url), open_store(postgres_url)
        with store.write() as tx:
            tx.execute(text("CREATE TABLE wanted (id int PRIMARY KEY)"))
            tx.execute(text("INSERT INTO wanted VALUES (1)"))
        with other.write() as tx:
            tx.execute(text("SELECT id FROM wanted FOR UPDATE"))
            yield store
        with store.write() as tx:
            tx.execute(text("DROP TABLE wanted"))
        store.close()
        other.close()

    def test_it_is_waited_for_again_although_one_wait_took_all_patience(self, held: Store) -> None:
        tries = []

        def work(tx: Connection) -> int:
            tries.append(1)
            tx.execute(text("SET LOCAL lock_timeout = '50ms'"))
            return tx.execute(SEEN if len(tries) > 2 else text("SELECT id FROM wanted FOR UPDATE")).scalar_one()

        assert held.transact(work, patience=timedelta(milliseconds=1)) == 1

    def test_the_error_says_that_others_hold_it_and_not_that_the_database_is_away(self, held: Store) -> None:
        def work(tx: Connection) -> None:
            tx.execute(text("SET LOCAL lock_timeout = '20ms'"))
            tx.execute(text("SELECT id FROM wanted FOR UPDATE"))

        with pytest.raises(DatabaseUnavailable) as refused:
            held.transact(work, patience=timedelta(milliseconds=1))

        assert "Other transactions were changing the same rows" in refused.value.message
        assert "Try again" in (refused.value.hint or "")

    def test_what_is_not_to_be_waited_for_is_begun_anew(self, held: Store) -> None:
        tries = []

        def work(tx: Connection) -> int:
            tries.append(1)
            return tx.execute(SEEN if len(tries) > 4 else text("SELECT id FROM wanted FOR UPDATE NOWAIT")).scalar_one()

        assert held.transact(work) == 1


@pytest.fixture
def lock_holder(sqlite_url: str):
    """Start another process that keeps SQLite's writer lock until it is released."""
    path = sqlite_path(make_url(sqlite_url))
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    yield holder
    holder.communicate("let go\n", timeout=patience(60))


def test_a_writer_waits_for_the_writer_of_another_process(sqlite_url: str, lock_holder: subprocess.Popen) -> None:
    store = open_store(sqlite_url)
    began = threading.Event()
    created: list[str] = []

    def write() -> None:
        began.set()
        created.append(store.transact(lambda tx: projects.get_or_create_workspace(tx, "patient")))

    writer = threading.Thread(target=write)
    writer.start()
    began.wait()
    assert names(store) == set(), "readers are not held up"
    assert not created
    lock_holder.stdin.write("let go\n")
    lock_holder.stdin.flush()
    writer.join(patience(20))

    assert len(created) == 1
    store.close()


def test_a_writer_that_waited_long_enough_says_so(
    sqlite_url: str, lock_holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordination.store.engine._BUSY_MS", 50)
    store = open_store(sqlite_url)

    with refuses(DatabaseUnavailable, varies="database is locked") as caught:
        store.transact(lambda tx: projects.get_or_create_workspace(tx, "x"), patience=timedelta(milliseconds=200))

    assert is_transient(caught.value)
    store.close()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    store = open_store("postgresql+psycopg://bob:s3cret@127.0.0.1:1/shop")
    began = time.monotonic()

    with refuses(DatabaseUnavailable, varies=r"connection.*refused[^.]*") as caught:
        store.transact(lambda _tx: None, patience=timedelta(milliseconds=200))
    with pytest.raises(DatabaseUnavailable), store.read() as tx:
        tx.execute(text("SELECT 1"))

    assert time.monotonic() - began < patience(10)
    assert "s3cret" not in caught.value.sentence()
    store.close()


def test_a_database_of_another_make_is_refused() -> None:
    with refuses(DatabaseUnavailable) as caught:
        open_store("mysql+pymysql://bob:s3cret@localhost/shop")

    assert "s3cret" not in caught.value.sentence()


def test_a_file_that_may_not_be_written_is_said_in_a_sentence(sqlite_url: str) -> None:
    path = sqlite_path(make_url(sqlite_url))
    open_store(sqlite_url).close()
    store = open_store(f"sqlite:///file:{path}?mode=ro&uri=true")

    with refuses(DatabaseUnavailable) as caught:
        store.transact(lambda tx: projects.get_or_create_workspace(tx, "x"))

    assert not is_transient(caught.value)
    store.close()


@pytest.mark.parametrize("content", [None, b"this is no database " * 100])
def test_a_file_that_is_no_database_is_said_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ("missing" if content is None else "") / "coord.db"
    if content is not None:
        path.write_bytes(content)
    store = open_store(f"sqlite:///{path}")

    with refuses(DatabaseUnavailable), store.read() as tx:
        tx.execute(text("SELECT 1"))
    store.close()


def test_sqlite_survives_a_power_cut_and_keeps_its_references(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    with store.write() as tx:
        assert tx.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert tx.execute(text("PRAGMA synchronous")).scalar() == 2
        assert tx.execute(text("PRAGMA foreign_keys")).scalar() == 1
    store.close()


def test_postgresql_gives_up_a_lock_that_never_comes(postgres_url: str) -> None:
    store = open_store(postgres_url)
    with store.read() as tx:
        assert tx.execute(text("SHOW lock_timeout")).scalar() == "20s"
        assert tx.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "15s"
    store.close()


def test_postgresql_compiles_no_statement(postgres_url: str) -> None:
    """Check that no statement is compiled just-in-time: full reads of small tables have a high planner cost."""
    store = open_store(postgres_url)
    with store.read() as tx:
        plan = "\n".join(tx.execute(text("EXPLAIN ANALYZE SELECT sum(slots) FROM workers")).scalars())
        assert tx.execute(text("SHOW jit")).scalar() == "off"
    store.close()

    assert "JIT" not in plan


def test_many_may_prepare_a_blank_database_at_once(blank_store_url: str) -> None:
    stores = [open_store(blank_store_url) for _ in range(4)]
    errors: list[BaseException] = []

    def prepare(store: Store) -> None:
        try:
            schema.prepare(store)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=prepare, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert schema.current(stores[0]) == schema.HEAD
    for store in stores:
        store.close()


def test_a_database_file_is_its_users_alone_wherever_it_is(tmp_path: Path) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    store = open_store(f"sqlite:///{place}/x.db")
    try:
        with store.write() as tx:
            tx.execute(text("CREATE TABLE t (a)"))
            modes = {path.name: path.stat().st_mode & 0o777 for path in place.iterdir()}
    finally:
        store.close()

    assert set(modes.values()) == {0o600}, modes
    assert "x.db-wal" in modes
