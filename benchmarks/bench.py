"""The bench: servers, our stacks and the peers, started when a part needs them and stopped when none does."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import peers
from benchmarks.ours import SLOTS, STORES, OurStack, no_op
from benchmarks.peers import Place
from benchmarks.workflow import MONTAGE
from coordination.store import schema
from coordination.store.engine import open_store
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.redis import RedisServer, running_redis

__all__ = ["PAIR", "STORES", "Bench", "OurStack", "no_op", "open_bench"]

PAIR = "postgresql, 2 processes"
"""Our side on PostgreSQL with two worker processes, as the peers have, which share the slots of one."""

RECORDS = 1_000_000
"""Of the ledger that summaries are made of, unless another number is asked for."""

_FIRST_OF_PEERS = 8  # Redis databases below are ours


class Bench:
    """What the parts measure with; everything is started at its first use."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        *,
        rounds: int,
        scale: float,
        workers: int,
        workflow: Path = MONTAGE,
        records: int = RECORDS,
    ) -> None:
        self._stack = stack
        self.rounds = rounds
        self.scale = scale
        self.workers = workers
        self.workflow = workflow
        self.records = records
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coord-bench-")))
        self._numbers = itertools.count()
        self._peers: dict[str, Any] = {}
        self._ours: dict[str, OurStack] = {}
        stack.callback(self.keep, peers=(), ours=False)

    @property
    def full(self) -> bool:
        """Whether this is the real thing, no trial."""
        return self.scale == 1.0

    def size(self, full: int) -> int:
        """*full*, or less in a trial."""
        return max(2, int(full * self.scale))

    @cached_property
    def redis(self) -> RedisServer:
        """A real Redis (Valkey)."""
        return self._stack.enter_context(running_redis())

    @cached_property
    def postgres(self) -> PostgresServer:
        """A real PostgreSQL that reaches the disk at every commit."""
        return self._stack.enter_context(running_postgres(durable=True))

    def redis_url(self, database: int) -> str:
        """A database of the one Redis, for us."""
        return f"unix://{self.redis.socket}?db={database}"

    def database(self, kind: str) -> str:
        """The URL of a new database with the schema."""
        if kind == "sqlite":
            url = f"sqlite:///{self.folder / f'bench-{next(self._numbers)}.db'}"
            _prepare(url)
            return url
        return self._stack.enter_context(self.postgres.migrated(_prepare))

    def blank_database(self) -> str:
        """The URL of a new database on the PostgreSQL with nothing in it, as libpq reads it."""
        return self._stack.enter_context(self.postgres.blank()).replace("+psycopg", "")

    def environment(self, kind: str, *, database: int) -> dict[str, str]:
        """The environment of a process of ours: a new database, the Redis, a home of its own."""
        home = self.folder / f"home-{next(self._numbers)}"
        return {
            "COORD_DATABASE_URL": self.database(kind),
            "COORD_REDIS_URL": self.redis_url(database),
            "COORD_HOME": str(home),
        }

    @property
    def ours(self) -> Mapping[str, OurStack]:
        """Our stacks, warm: one on each store, on the peers' Redis."""
        for number, kind in enumerate(STORES, start=1):
            if kind not in self._ours:
                self._ours[kind] = self.warm_stack(kind, database=number)
        return {kind: self._ours[kind] for kind in STORES}

    @property
    def pair(self) -> OurStack:
        """Two worker processes on PostgreSQL, warm."""
        if PAIR not in self._ours:
            extra = {"COORD_SLOTS": str(SLOTS // 2)}
            self._ours[PAIR] = self.warm_stack("postgresql", database=3, extra=extra, workers=2)
        return self._ours[PAIR]

    def warm_stack(
        self, kind: str, *, database: int, extra: Mapping[str, str] | None = None, workers: int | None = None
    ) -> OurStack:
        """A stack of ours with its worker processes, warmed up; to be closed by the caller."""
        stack = OurStack(kind, {**self.environment(kind, database=database), **(extra or {})})
        try:
            stack.start_workers(workers or self.workers)
            stack.seconds([no_op(f"warm-{index}") for index in range(self.size(500))])
        except BaseException:
            stack.close()
            raise
        return stack

    def peers(self, *names: str) -> dict[str, Any]:
        """Those of the peers whose packages are here, warm."""
        for name in names:
            if name not in self._peers and peers.missing(name) is None:
                number = _FIRST_OF_PEERS + list(peers.NEEDS).index(name)
                place = Place(self.redis.socket, number, self.blank_database, self.folder)
                self._peers[name] = peer = peers.start(name, place)
                peer.no_ops(self.size(500))
        return {name: self._peers[name] for name in names if name in self._peers}

    def keep(self, *, peers: Collection[str], ours: bool) -> None:
        """Stop what the next part does not need: it would only take its share of the machine."""
        for name in [name for name in self._peers if name not in peers]:
            self._peers.pop(name).close()
        while self._ours and not ours:
            self._ours.popitem()[1].close()

    def server_versions(self) -> dict[str, str]:
        """The versions of the servers that were used so far."""
        found = {}
        if "redis" in self.__dict__:
            with self.redis.client() as client:
                server: Any = client.info("server")
                found["Valkey"] = str(server.get("valkey_version") or server["redis_version"])
        if "postgres" in self.__dict__:
            with psycopg.connect(self.blank_database()) as connection:
                found["PostgreSQL"] = (
                    f"{connection.info.server_version // 10000}.{connection.info.server_version % 10000}"
                )
        return found


@contextlib.contextmanager
def open_bench(
    *, rounds: int, scale: float, workers: int, workflow: Path = MONTAGE, records: int = RECORDS
) -> Iterator[Bench]:
    """A bench, everything it starts stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield Bench(stack, rounds=rounds, scale=scale, workers=workers, workflow=workflow, records=records)


def _prepare(url: str) -> None:
    store = open_store(url)
    try:
        schema.prepare(store)
    finally:
        store.close()
