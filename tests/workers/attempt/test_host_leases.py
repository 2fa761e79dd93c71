"""Test copies of databases for attempts: real ones, dropped with the attempt or after the death of its worker."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from coordination.base.errors import Refused, Unavailable
from coordination.base.host import host
from coordination.domain.jobs.preparation import Database, copy_url
from coordination.domain.tasks.attempts import Claim
from coordination.store.engine import Store
from coordination.store.queries.fleet import host_leases
from coordination.store.queries.fleet.host_leases import LeaseKind
from tests.support.jobs import claim_of
from tests.support.refusals import refuses
from tests.support.world import World
from workers.attempt import database_copies
from workers.attempt.host_leases import PortAndDatabaseLeases, drop_ended_leases, is_port_free


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


@pytest.fixture
def origin(blank_postgres_url: str) -> str:
    """Provide the URL of a user's database with one row."""
    url = blank_postgres_url.replace("postgresql+psycopg://", "postgresql://")
    with closing(connect(url)) as server:
        server.execute("CREATE TABLE t AS SELECT 1 AS x")
    return url


@pytest.fixture
def claim(world: World) -> Claim:
    world.submit("a", "b")
    world.claim("a", "b")
    return claim_of({"shell": "true"}, task_id=world.ids["a"], workspace_id=world.workspace)


@pytest.fixture
def lender(world: World, claim: Claim, tmp_path: Path) -> Iterator[PortAndDatabaseLeases]:
    created = PortAndDatabaseLeases(world.store, claim, ports=range(28_500, 28_510), scratch=tmp_path)
    yield created
    created.release()
    drop_ended_leases(world.store)


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True)


def exists(origin: str, copy: str) -> bool:
    name = urlsplit(copy).path.strip("/")
    with closing(psycopg.connect(copy_url(origin, "postgres"))) as server:
        return server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def leases(world: World) -> set[str]:
    with world.store.read() as tx:
        return host_leases.names_on(tx, host(), LeaseKind.DATABASE)


class TestPostgres:
    def test_a_copy_has_what_the_original_has_and_goes_though_somebody_is_connected(
        self, world: World, lender: PortAndDatabaseLeases, origin: str
    ) -> None:
        copy = lender.database(Database(origin))

        with closing(connect(copy)) as inside:
            assert inside.execute("INSERT INTO t VALUES (2) RETURNING (SELECT count(*) FROM t)").fetchone() == (1,)
            assert len(leases(world)) == 1
            lender.release()

        assert not exists(origin, copy)
        assert leases(world) == set()
        with closing(connect(origin)) as original:
            assert original.execute("SELECT count(*) FROM t").fetchone() == (1,)

    def test_what_a_dead_worker_left_goes_when_its_attempt_has_ended(
        self, world: World, lender: PortAndDatabaseLeases, origin: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHOP_URL", origin)
        copy = lender.database(Database("$SHOP_URL"))

        assert drop_ended_leases(world.store) == 0
        assert exists(origin, copy)

        world.expire("a")
        world.tick()
        monkeypatch.delenv("SHOP_URL")
        assert drop_ended_leases(world.store) == 0  # the address of its server is unknown
        monkeypatch.setenv("SHOP_URL", origin)

        assert drop_ended_leases(world.store) == 1
        assert not exists(origin, copy)
        assert leases(world) == set()

    def test_somebody_who_is_connected_to_the_original_is_waited_for(
        self, lender: PortAndDatabaseLeases, origin: str
    ) -> None:
        with closing(connect(origin)), refuses(Unavailable, varies=r"to coord_\w+|to \w+$"):
            lender.database(Database(origin))

    def test_what_cannot_be_copied_is_said_without_a_password(
        self, lender: PortAndDatabaseLeases, origin: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts = urlsplit(origin)
        user, _, place = parts.netloc.rpartition("@")
        secret = parts._replace(netloc=f"{user.partition(':')[0]}:geheim@{place}", path="/nowhere").geturl()
        monkeypatch.setenv("BAD_URL", "mysql://u:geheim@h/x")

        with pytest.raises((Refused, Unavailable)) as missing:
            lender.database(Database(secret))
        with refuses(Refused, field="checkout.database.clone"):
            lender.database(Database("$BAD_URL"))
        with refuses(Refused):
            lender.database(Database("$NOT_SET"))
        with pytest.raises(Unavailable) as away:
            database_copies.copy_database("postgresql://u:geheim@127.0.0.1:9/x", "coord_x")

        assert "geheim" not in f"{missing.value} {away.value}"


class TestSqlite:
    def test_a_copy_is_taken_while_another_writes_and_goes_with_the_attempt(
        self, world: World, claim: Claim, tmp_path: Path
    ) -> None:
        folder = tmp_path / "project"
        folder.mkdir()
        with closing(sqlite3.connect(folder / "dev.db")) as original:
            original.execute("PRAGMA journal_mode=WAL")
            original.execute("CREATE TABLE t AS SELECT 1 AS x")
            original.commit()
            original.execute("INSERT INTO t VALUES (2)")  # not committed
            inside = claim_of(
                {"shell": "true"}, task_id=claim.task_id, workspace_id=claim.workspace_id, workdir=str(folder)
            )
            lender = PortAndDatabaseLeases(world.store, inside, ports=range(1), scratch=tmp_path)

            url = lender.database(Database("sqlite:///dev.db"))

            path = Path(url.removeprefix("sqlite:///"))
            with closing(sqlite3.connect(path)) as copy:
                assert copy.execute("SELECT count(*) FROM t").fetchone() == (1,)
        lender.release()
        assert not path.exists()

        world.finish("a")
        assert drop_ended_leases(world.store) == 1
        assert leases(world) == set()

    def test_a_file_that_is_not_there_or_no_database_is_refused(
        self, world: World, claim: Claim, tmp_path: Path
    ) -> None:
        (tmp_path / "text.db").write_text("no database " * 200)
        for name in ("gone.db", "text.db"):
            lender = PortAndDatabaseLeases(world.store, claim, ports=range(1), scratch=tmp_path / name[:4])
            (tmp_path / name[:4]).mkdir()
            with refuses(Refused, varies=r"/\S+?(?=,| )"):
                lender.database(Database(f"sqlite:///{tmp_path}/{name}"))
            lender.release()
            assert not list((tmp_path / name[:4]).iterdir())

    @pytest.mark.parametrize("url", ["sqlite:///dev.db", "sqlite:///deep/x.db", "sqlite:///{folder}/dev.db"])
    def test_a_link_in_the_jobs_folder_is_refused_and_one_above_it_is_not(
        self, world: World, claim: Claim, tmp_path: Path, url: str
    ) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "named").symlink_to(tmp_path / "real")
        (tmp_path / "outside").mkdir()
        for name in ("outside/x.db", "real/own.db"):
            with closing(sqlite3.connect(tmp_path / name)) as created:
                created.execute("CREATE TABLE t AS SELECT 1 AS x")
        (tmp_path / "real" / "dev.db").symlink_to(tmp_path / "outside" / "x.db")
        (tmp_path / "real" / "deep").symlink_to(tmp_path / "outside")
        folder = str(tmp_path / "named")
        inside = claim_of({"shell": "true"}, task_id=claim.task_id, workspace_id=claim.workspace_id, workdir=folder)
        (tmp_path / "scratch").mkdir()
        lender = PortAndDatabaseLeases(world.store, inside, ports=range(1), scratch=tmp_path / "scratch")

        with refuses(Refused, varies=r"/\S+?(?=,| )"):
            lender.database(Database(url.format(folder=folder)))

        lender.release()
        for good in ("own.db", "../outside/x.db"):
            database_copies.copy_sqlite_file(f"sqlite:///{good}", folder, tmp_path / "scratch" / "copy")
            assert (tmp_path / "scratch" / "copy").stat().st_size


def test_a_port_that_something_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_port_free(port)
    with socket.socket(socket.AF_INET6) as six:
        six.bind(("::1", 0))
        six.listen()
        assert not is_port_free(six.getsockname()[1])


def test_ports_that_are_lent_are_free_ones(lender: PortAndDatabaseLeases) -> None:
    ports = lender.ports(3)

    assert len(set(ports)) == 3
    assert all(is_port_free(port) for port in ports)
