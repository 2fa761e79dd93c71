"""Fixtures of every test: real databases and a real Redis, one server of each per test process, empty for each test."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import structlog

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for tests.support; importlib mode adds nothing by itself

from tests.support import run  # noqa: E402
from tests.support.compiled import share_compiled  # noqa: E402
from tests.support.postgres import PostgresServer, running_postgres  # noqa: E402
from tests.support.processes import Processes, describe, leftovers  # noqa: E402
from tests.support.reaper import TAG  # noqa: E402
from tests.support.redis import RedisServer, running_redis  # noqa: E402
from tests.support.scratch import files_in_memory  # noqa: E402
from tests.support.services import missing  # noqa: E402
from tests.support.tiers import DATABASES, mark_full_tier  # noqa: E402

pytest_plugins = ("tests.support.golden_sentences",)

files_in_memory()
share_compiled()
# structlog's own way shows every local variable of a traceback, which takes a minute, and workers' does not.
plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test with a store once on each kind of database."""
    if "store_kind" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("stores")
        metafunc.parametrize("store_kind", marker.args if marker else DATABASES, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that only ``make test-all`` runs."""
    mark_full_tier(items)


def pytest_configure(config: pytest.Config) -> None:
    """Prepare this test process for the machine that it is on."""
    config.pluginmanager.register(run)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Set up first, so torn down last: every process that a test started must have ended by then."""
    yield
    left = leftovers(os.environ[TAG])
    _clear_folders()
    if left:
        described = "\n".join(describe(process) for process in left)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
        pytest.fail(f"the tests left processes running:\n{described}", pytrace=False)


def _clear_folders() -> None:
    """Delete what killed workers have left in the folder for temporary files: no later worker may do it."""
    from workers.runners import scratch_dirs

    scratch_dirs.delete_abandoned(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Start real processes, and end them after the test."""
    started = Processes()
    yield started
    started.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Provide the PostgreSQL of this test process."""
    try:
        with running_postgres() as server:
            yield server
            _no_deadlocks(server.new_deadlocks())
    except ImportError as error:
        missing("PostgreSQL", error)


def _no_deadlocks(found: list[str]) -> None:
    """Check that the server ends no transaction: all lock rows in one order, and a retry would hide a deadlock."""
    if found:
        shown = "\n\n".join(found[:5])
        pytest.fail(f"PostgreSQL has met {len(found)} deadlocks in this run, such as\n{shown}", pytrace=False)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Provide the Redis of this test process."""
    try:
        with running_redis() as server:
            yield server
    except ImportError as error:
        missing("Redis", error)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Provide the URL of an empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[str]:
    """Provide the URL of a PostgreSQL database with the schema and no rows.

    Tests share one in turn, but for those that change its schema (the mark ``own_database``) or start processes.
    """
    alone = request.node.get_closest_marker("own_database") or "processes" in request.fixturenames
    make = postgres_server.migrated if alone else postgres_server.emptied
    with _deadlocks_of(request, postgres_server), make(_prepare) as url:
        yield url


@pytest.fixture
def blank_postgres_url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[str]:
    """Provide the URL of an empty PostgreSQL database."""
    with _deadlocks_of(request, postgres_server), postgres_server.blank() as url:
        yield url


@contextmanager
def _deadlocks_of(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[None]:
    """Let a test with the mark ``deadlocks`` have its own, and no others."""
    before = server.new_deadlocks() if request.node.get_closest_marker("deadlocks") else None
    yield
    if before is not None:
        server.new_deadlocks()
        _no_deadlocks(before)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "coord.db"
    _prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """Provide the URL of a SQLite database with the schema and no rows."""
    copy = tmp_path / "coord.db"
    shutil.copyfile(_sqlite_template, copy)
    return f"sqlite:///{copy}"


@pytest.fixture
def blank_sqlite_url(tmp_path: Path) -> str:
    """Provide the URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'blank.db'}"


@pytest.fixture
def store_kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of database of this test: each of ``DATABASES``, or those of ``@pytest.mark.stores(...)``."""
    return request.param


@pytest.fixture
def store_url(request: pytest.FixtureRequest, store_kind: str) -> str:
    """Provide the URL of a database with the schema and no rows; the test runs once on each kind."""
    return request.getfixturevalue(f"{store_kind}_url")


@pytest.fixture
def blank_store_url(request: pytest.FixtureRequest, store_kind: str) -> str:
    """Provide the URL of a database without any schema; the test runs once on each kind."""
    return request.getfixturevalue(f"blank_{store_kind}_url")


@pytest.fixture
def store(store_url: str) -> Iterator:
    """Provide an open store with the schema and no rows; the test runs once on each kind of database."""
    from coordination.store.engine import open_store

    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def fleet(request: pytest.FixtureRequest, store_kind: str, processes: Processes, tmp_path: Path) -> Iterator:
    """Provide a fleet without workers; the test runs once on each kind of database.

    In a module with the mark ``shared_worker`` its worker, database and Redis are those of the module, and the test
    has a workspace of its own, unless it has the mark ``own_worker``. Leases last longer than a test may take, but with
    the mark ``expiring``.
    """
    from tests.support.fleet import SharedFleet, fleet_on

    if request.node.get_closest_marker("shared_worker") and not request.node.get_closest_marker("own_worker"):
        stacks = request.getfixturevalue("_shared_stacks")
        fleet = SharedFleet(stacks.stack(store_kind, partial(_database, request, store_kind)), tmp_path)
        yield fleet
        fleet.co.close()
        return
    redis_url = request.getfixturevalue("redis_url")
    expiring = request.node.get_closest_marker("expiring") is not None
    with fleet_on(processes, request.getfixturevalue("store_url"), redis_url, tmp_path, expiring=expiring) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def _shared_stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    from tests.support.fleet import SharedStacks

    stacks = SharedStacks(tmp_path_factory.mktemp("shared"))
    yield stacks
    stacks.close()


@contextmanager
def _database(request: pytest.FixtureRequest, kind: str, folder: Path) -> Iterator[str]:
    if kind == "postgres":
        with request.getfixturevalue("postgres_server").migrated(_prepare) as url:
            yield url
        return
    shutil.copyfile(request.getfixturevalue("_sqlite_template"), folder / "coord.db")
    yield f"sqlite:///{folder / 'coord.db'}"


def _prepare(url: str) -> None:
    from coordination.store import schema
    from coordination.store.engine import open_store

    opened = open_store(url)
    try:
        schema.prepare(opened)
    finally:
        opened.close()
