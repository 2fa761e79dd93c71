"""Fixtures of every test: real databases and a real Redis, one server of each per test process, empty for each test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import structlog

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for tests.support; importlib mode adds nothing by itself

from tests.support.compiled import share_compiled  # noqa: E402
from tests.support.postgres import PostgresServer, running_postgres  # noqa: E402
from tests.support.processes import Processes, describe, leftovers, mark_descendants  # noqa: E402
from tests.support.redis import RedisServer, running_redis  # noqa: E402
from tests.support.scratch import files_in_memory  # noqa: E402
from tests.support.services import missing  # noqa: E402

DATABASES = ("sqlite", "postgres")

files_in_memory()
share_compiled()
# structlog's own way shows every local variable of a traceback, which takes a minute, and workers' does not.
plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Set up first, so torn down last: every process that a test started has to be gone by then."""
    tag = mark_descendants()
    yield
    left = leftovers(tag)
    _clear_folders()
    if left:
        described = "\n".join(describe(process) for process in left)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
        pytest.fail(f"the tests left processes running:\n{described}", pytrace=False)


def _clear_folders() -> None:
    """What killed workers have left in the folder for temporary files: nobody else may come to take it away."""
    from workers import own_folders

    own_folders.clear(own_folders.TEMPORARY, own_folders.IN_TEMPORARY)


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts real processes, and ends them after the test."""
    started = Processes()
    yield started
    started.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of this test process."""
    try:
        with running_postgres() as server:
            yield server
    except ImportError as error:
        missing("PostgreSQL", error)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of this test process."""
    try:
        with running_redis() as server:
            yield server
    except ImportError as error:
        missing("Redis", error)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a Redis with nothing in it."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a PostgreSQL database with the schema and no rows."""
    with postgres_server.migrated(_prepare) as url:
        yield url


@pytest.fixture
def blank_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a PostgreSQL database with nothing in it."""
    with postgres_server.blank() as url:
        yield url


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "coord.db"
    _prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a SQLite database with the schema and no rows."""
    copy = tmp_path / "coord.db"
    shutil.copyfile(_sqlite_template, copy)
    return f"sqlite:///{copy}"


@pytest.fixture
def blank_sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'blank.db'}"


@pytest.fixture(params=DATABASES)
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with the schema and no rows; the test runs once on each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=DATABASES)
def blank_store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database without any schema; the test runs once on each kind."""
    return request.getfixturevalue(f"blank_{request.param}_url")


@pytest.fixture
def store(store_url: str) -> Iterator:
    """An open store with the schema and no rows; the test runs once on each kind of database."""
    from coordination.store.engine import open_store

    opened = open_store(store_url)
    yield opened
    opened.close()


def _prepare(url: str) -> None:
    from coordination.store import schema
    from coordination.store.engine import open_store

    opened = open_store(url)
    try:
        schema.prepare(opened)
    finally:
        opened.close()
