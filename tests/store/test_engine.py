"""Opening and using the store: what is transient is tried again, what is not is said in one sentence."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from coordination.errors import DatabaseUnavailable
from coordination.store import schema
from coordination.store.engine import Store, check_reachable, is_transient, open_store, sqlite_path
from coordination.store.queries import projects
from coordination.store.tables.projects import workspaces

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
    with pytest.raises(RuntimeError, match="stop"), store.write() as tx:  # noqa: PT012 - what is done before it counts
        projects.make_workspace(tx, "half")
        raise RuntimeError("stop")

    assert names(store) == set()


def test_a_reading_transaction_refuses_to_write(store: Store) -> None:
    with store.read() as tx, pytest.raises(DBAPIError, match=r"read-?only"):
        projects.make_workspace(tx, "sneaky")

    assert names(store) == set()
    with store.write() as tx:  # the pooled connection may write again
        projects.make_workspace(tx, "fine")
    assert names(store) == {"fine"}


def test_a_read_sees_one_moment_and_the_next_read_sees_the_present(store: Store) -> None:
    with store.read() as tx:
        before = set(tx.execute(select(workspaces.c.name)).scalars())
        with store.write() as other:
            projects.make_workspace(other, "meanwhile")
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
        projects.make_workspace(tx, "once")
        if not killed:
            killed.append(backend)
            plain = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        return projects.make_workspace(tx, "once")

    made = store.transact(work)

    assert names(store) == {"once"}
    assert made
    store.close()


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
                met.wait(10)
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


@pytest.fixture
def lock_holder(sqlite_url: str):
    """Another process that holds SQLite's writer lock until it is told to let go."""
    path = sqlite_path(make_url(sqlite_url))
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    yield holder
    holder.communicate("let go\n", timeout=10)


def test_a_writer_waits_for_the_writer_of_another_process(sqlite_url: str, lock_holder: subprocess.Popen) -> None:
    store = open_store(sqlite_url)
    began = threading.Event()
    made: list[str] = []

    def write() -> None:
        began.set()
        made.append(store.transact(lambda tx: projects.make_workspace(tx, "patient")))

    writer = threading.Thread(target=write)
    writer.start()
    began.wait()
    assert names(store) == set(), "readers are not held up"
    assert not made
    lock_holder.stdin.write("let go\n")
    lock_holder.stdin.flush()
    writer.join(20)

    assert len(made) == 1
    store.close()


def test_a_writer_that_waited_long_enough_says_so(
    sqlite_url: str, lock_holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordination.store.engine._BUSY_MS", 50)
    store = open_store(sqlite_url)

    with pytest.raises(DatabaseUnavailable, match="locked") as caught:
        store.transact(lambda tx: projects.make_workspace(tx, "x"), patience=timedelta(milliseconds=200))

    assert "\n" not in caught.value.sentence()
    assert is_transient(caught.value)
    store.close()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    store = open_store("postgresql+psycopg://bob:s3cret@127.0.0.1:1/shop")
    began = time.monotonic()

    with pytest.raises(DatabaseUnavailable) as caught:
        store.transact(lambda _tx: None, patience=timedelta(milliseconds=200))
    with pytest.raises(DatabaseUnavailable):
        check_reachable(store)

    assert time.monotonic() - began < 10
    sentence = caught.value.sentence()
    assert "s3cret" not in sentence
    assert "bob:***@127.0.0.1:1/shop" in sentence
    assert "\n" not in sentence
    assert "COORD_DATABASE_URL" in sentence
    store.close()


def test_a_database_of_another_make_is_refused() -> None:
    with pytest.raises(DatabaseUnavailable, match="neither SQLite nor PostgreSQL") as caught:
        open_store("mysql+pymysql://bob:s3cret@localhost/shop")

    assert "s3cret" not in caught.value.sentence()


def test_a_file_that_may_not_be_written_is_said_in_a_sentence(sqlite_url: str) -> None:
    path = sqlite_path(make_url(sqlite_url))
    open_store(sqlite_url).close()
    store = open_store(f"sqlite:///file:{path}?mode=ro&uri=true")

    with pytest.raises(DatabaseUnavailable, match="readonly database") as caught:
        store.transact(lambda tx: projects.make_workspace(tx, "x"))

    assert not is_transient(caught.value)
    assert "this user may write" in caught.value.sentence()
    store.close()


@pytest.mark.parametrize("content", [None, b"this is no database " * 100])
def test_a_file_that_is_no_database_is_said_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ("missing" if content is None else "") / "coord.db"
    if content is not None:
        path.write_bytes(content)
    store = open_store(f"sqlite:///{path}")

    with pytest.raises(DatabaseUnavailable, match=r"unable to open|not a database"):
        check_reachable(store)
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
        assert tx.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "1min"
    store.close()


def test_postgresql_compiles_no_statement(postgres_url: str) -> None:
    """Reading a small table whole is said to be very dear, so that no large one is: compiled, it would be."""
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
