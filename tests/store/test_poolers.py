"""Test a real PgBouncer in transaction mode: no prepared statements, no session state, and doctor detects it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from coordination.base.errors import DatabaseUnavailable
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from coordination.store import schema
from coordination.store.engine import Store, open_store
from coordination.store.postgresql import PoolingMode
from tests.support.command import Coord
from tests.support.fleet import Fleet, fleet_on
from tests.support.pgbouncer import pooler_of
from tests.support.processes import Processes
from tests.support.refusals import refuses

pytestmark = [pytest.mark.stores("postgres"), pytest.mark.full, pytest.mark.own_database]

NONE = "&prepare_threshold=none"
Pooled = Callable[..., str]


@pytest.fixture
def pooled(processes: Processes, store_url: str) -> Iterator[Pooled]:
    """Start a pooler before the test's database, and return its URL."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(pooler_of(processes, store_url, **options))


def opened(url: str, use: Callable[[Store], object]) -> object:
    store = open_store(url)
    try:
        return use(store)
    finally:
        store.close()


def shown(store: Store, name: str) -> str:
    with store.write() as tx:
        return str(tx.execute(text(f"SHOW {name}")).scalar_one())


@pytest.mark.timeout(180)
def test_a_plan_runs_on_two_workers(processes: Processes, pooled: Pooled, redis_url: str, tmp_path: Path) -> None:
    with fleet_on(processes, pooled() + NONE, redis_url, tmp_path) as fleet:
        finish(fleet)


def finish(fleet: Fleet) -> None:
    fleet.file("making.py").write_text("def make():\n    return {'made': 1}\n")
    fleet.worker("-c", "2")
    fleet.worker("-c", "2")
    first = [Task(f"first{number}", {"python": "making:make"}) for number in range(40)]
    second = [Task(f"then{number}", {"shell": "echo done"}, needs=[f"first{number}"]) for number in range(10)]
    last = Task("last", {"shell": "echo last > last"}, needs=[task.key for task in second])

    run = fleet.submit(*first, *second, last)

    assert run.wait(timeout=120) is RunState.COMPLETED
    assert fleet.file("last").read_text() == "last\n"
    assert all(task.record.attempt == 1 for task in run.tasks())
    assert fleet.coord("doctor").out.count("the database has a pooler in transaction mode") == 1


def test_every_transaction_has_our_settings_and_leaves_none_behind(pooled: Pooled, store_url: str) -> None:
    url = pooled()
    store = open_store(url + NONE + "&options=-csearch_path%3Dpg_catalog,public%20--work_mem%3D3MB")
    try:
        for mode in (store.write, store.read):
            with mode() as tx:
                settings = [
                    tx.execute(text(f"SHOW {name}")).scalar_one()
                    for name in ("lock_timeout", "timezone", "jit", "enable_seqscan", "search_path", "work_mem")
                ]
            assert settings == ["20s", "UTC", "off", "off", "pg_catalog,public", "3MB"]
    finally:
        store.close()

    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    for _ in range(5):
        with psycopg.connect(plain, prepare_threshold=None) as other:
            row = other.execute("SELECT current_setting('lock_timeout'), current_setting('search_path')").fetchone()
        assert row == ("0", '"$user", public')


def test_nothing_is_ever_prepared(pooled: Pooled) -> None:
    store = open_store(pooled() + NONE)
    try:
        for _ in range(20):
            shown(store, "jit")
        with store.write() as tx:
            prepared = tx.execute(text("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql")).scalar_one()
    finally:
        store.close()

    assert prepared == 0


def test_a_schema_is_made_and_checked_through_it(processes: Processes, blank_postgres_url: str) -> None:
    with pooler_of(processes, blank_postgres_url) as url:
        store = open_store(url + NONE)
        try:
            schema.prepare(store)
            schema.require(store)

            assert schema.current(store) == schema.HEAD
        finally:
            store.close()


def test_without_the_word_in_the_url_the_refusal_says_which(pooled: Pooled) -> None:
    store = open_store(pooled())
    try:
        with refuses(DatabaseUnavailable, varies=r"The database .*? cannot be used: .*?options.*?\."):
            shown(store, "jit")
    finally:
        store.close()


@pytest.mark.parametrize("said", ["", "&prepare_threshold=0", "&prepare_threshold=5"])
def test_doctor_warns_where_statements_would_be_prepared(pooled: Pooled, tmp_path: Path, said: str) -> None:
    url = pooled(ignored="extra_float_digits, options")

    done = Coord(tmp_path / "home", tmp_path, {"COORD_DATABASE_URL": url + said})("doctor", code=1)

    assert "wrong  pooler: it is in transaction mode" in done.out
    assert "Add prepare_threshold=none to COORD_DATABASE_URL" in done.out


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_what_stands_before_the_server_is_known(pooled: Pooled, store_url: str, mode: str) -> None:
    def look(store: Store) -> PoolingMode:
        return store.pooling()

    assert opened(pooled(mode=mode) + NONE, look) is PoolingMode(mode)
    assert opened(store_url, look) is PoolingMode.NONE
