"""The servers of a soak: one store, one Redis, a worker that stays, a worker that gets faults, and beat."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import make_url

from coordination.api.connection import Coordination
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from coordination.store import schema
from coordination.store.engine import open_store
from tests.support.postgres import running_postgres
from tests.support.processes import Process, Processes
from tests.support.redis import RedisServer, running_redis
from tests.support.scratch import scratch_folder

# Short enough for a fault every 20 s to have healed before the next one, long enough for a busy machine.
SETTINGS = {
    "COORD_LEASE_TTL": "9s",
    "COORD_LEASE_HEARTBEAT": "3s",
    "COORD_SWEEP": "2s",
    "COORD_TICK": "2s",
    "COORD_SHUTDOWN_GRACE": "2s",
    "COORD_CANCEL_GRACE": "2s",
}
LEASE_SECONDS = 9.0

STAYS, HURT, BEAT = "worker that stays", "worker that is hurt", "beat"


@dataclass
class Servers:
    """The processes under test by role; a role that was killed gets a new process, and a new life in the samples."""

    folder: Path
    env: dict[str, str]
    redis: RedisServer
    co: Coordination
    processes: Processes
    running: dict[str, Process] = field(default_factory=dict)

    @property
    def on_postgres(self) -> bool:
        """Return whether the store is PostgreSQL."""
        return self.env["COORD_DATABASE_URL"].startswith("postgresql")

    @property
    def project(self) -> Path:
        """Return the folder where jobs run."""
        return self.folder / "project"

    def start(self, role: str) -> None:
        """Start the process of a role, and release what is left of its predecessor."""
        if role in self.running:
            self.running[role].close()
        if role == BEAT:
            arguments = ("-m", "celery", "-A", "workers.app", "beat", "--schedule", self.folder / "beat")
            self.running[role] = self.processes.start_python(*arguments, env=self.env)
        else:
            self.running[role] = self.processes.start_worker(self.env, "-c", "4")

    def pids(self) -> dict[str, int]:
        """Return every process that is sampled, by its role."""
        by_role = {role: process.pid for role, process in self.running.items() if process.exit_code is None}
        if self.redis.process is not None:
            by_role["redis"] = self.redis.process.pid
        return by_role

    def admin(self) -> psycopg.Connection:
        """Return a connection to PostgreSQL's maintenance database."""
        url = make_url(self.env["COORD_DATABASE_URL"]).set(drivername="postgresql", database="postgres")
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)

    @property
    def database(self) -> str:
        """Return the database's name, or its file."""
        return str(make_url(self.env["COORD_DATABASE_URL"]).database)

    def database_bytes(self) -> int:
        """Return the store's bytes on disk."""
        if self.on_postgres:
            with self.admin() as connection:
                row = connection.execute("SELECT pg_database_size(%s)", [self.database]).fetchone()
                return int(row[0]) if row else 0
        return sum(path.stat().st_size for path in Path(self.database).parent.glob(Path(self.database).name + "*"))

    def backends(self) -> list[psutil.Process]:
        """Return PostgreSQL's processes that serve our database."""
        if not self.on_postgres:
            return []
        with self.admin() as connection:
            rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", [self.database]).fetchall()
        return [psutil.Process(pid) for (pid,) in rows if psutil.pid_exists(pid)]


@contextmanager
def running_servers(store: str) -> Iterator[Servers]:
    """Provide all servers, on an empty database of that kind (``postgres`` or ``sqlite``); all end with the block."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        redis_server = stack.enter_context(running_redis())
        if store == "postgres":
            url = stack.enter_context(stack.enter_context(running_postgres()).blank())
        else:
            url = f"sqlite:///{folder / 'coord.db'}"
        opened = open_store(url)
        schema.prepare(opened)
        opened.close()
        for name in ("home", "project"):
            (folder / name).mkdir()
        env = {
            **SETTINGS,
            "COORD_DATABASE_URL": url,
            "COORD_REDIS_URL": redis_server.url,
            "COORD_HOME": str(folder / "home"),
        }
        co = Coordination(open_runtime(load_settings(env)))
        stack.callback(co.close)
        processes = Processes()
        stack.callback(processes.close)
        servers = Servers(folder, env, redis_server, co, processes)
        for role in (STAYS, HURT, BEAT):
            servers.start(role)
        yield servers


def kept(servers: Servers, place: Path) -> None:
    """Keep the processes' output, and a copy of a SQLite database, in *place*."""
    place.mkdir(parents=True, exist_ok=True)
    for role, process in servers.running.items():
        (place / f"{role.replace(' ', '-')}.log").write_text(process.output)
    if not servers.on_postgres:
        with sqlite3.connect(servers.database) as source:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(servers.database, place / "coord.db")
