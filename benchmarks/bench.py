"""The bench: servers, our stacks and the peer's worker, started when a part needs them and stopped at the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import redis

from benchmarks import jobs
from coordination import Plan, Task, connect
from coordination.domain.plans import ProjectRef
from coordination.domain.runs import RunState
from coordination.settings import load_settings
from coordination.store import schema
from coordination.store.engine import open_store
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.processes import Process
from tests.support.redis import RedisServer, running_redis

ROOT = Path(__file__).resolve().parent.parent
STORES = ("sqlite", "postgresql")
PATIENCE = 120.0


class OurStack:
    """A database, and worker processes as shipped."""

    def __init__(self, kind: str, environment: dict[str, str]) -> None:
        self.kind = kind
        self.environment = environment
        self.co = connect(load_settings(environment))
        self.workers: list[Process] = []

    def start_worker(self, *options: str) -> Process:
        """One more worker process, ready."""
        argv = [sys.executable, "-P", "-m", "workers", *options]
        process = Process(argv, env={**self.environment, "PYTHONPATH": str(ROOT)}, announces=True)
        self.workers.append(process)
        return process.wait_until_ready()

    def seconds(self, tasks: Sequence[Task]) -> float:
        """From handing the plan over to the end of its last task, by the database's own note of that moment."""
        plan = Plan(tasks, project=ProjectRef(name="bench", git_remote="https://example.org/bench.git"))
        began = datetime.now(UTC)
        run = self.co.submit(plan)
        state = run.wait(PATIENCE)
        ended = run.record.finished_at
        if state is not RunState.COMPLETED or ended is None:
            raise SystemExit(
                f"The run on {self.kind} ended as {state}: {[t.error for t in run.tasks() if t.error][:3]}"
            )
        return (ended - began).total_seconds()

    def close(self) -> None:
        """Stop the workers."""
        for process in self.workers:
            process.stop(within=timedelta(seconds=60))
            process.close()
        self.co.close()


class PeerStack:
    """Raw Celery: one worker with two prefork children."""

    def __init__(self, urls: dict[str, str], folder: Path) -> None:
        os.environ.update(urls)
        from benchmarks import peer

        self.peer = peer
        self._client = redis.Redis.from_url(urls["BENCH_DONE"], socket_timeout=None)  # it waits for the last task
        self._broker = redis.Redis.from_url(urls["BENCH_QUEUE"])
        self._keys = (f"done-{number}" for number in itertools.count())
        argv = [sys.executable, "-m", "celery", "-A", "benchmarks.peer", "worker", "-c", "2", "-P", "prefork"]
        argv += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR", "-n", "peer@%h"]
        self._worker = Process(argv, env={**urls, "PYTHONPATH": str(ROOT)}, cwd=folder)
        self.until_over(peer.over.delay)

    def no_ops(self, count: int) -> float:
        """Seconds from the first message sent to the last task taken by a child (no results: nothing says it ended)."""
        nothing = self.peer.nothing
        began = time.perf_counter()
        with self.peer.app.producer_or_acquire() as producer:
            for _ in range(count):
                nothing.apply_async((), producer=producer)
        while self._broker.llen("celery") or self._broker.hlen("unacked"):
            time.sleep(0.002)
        return time.perf_counter() - began

    def until_over(self, send: Callable[[str], Any]) -> float:
        """Seconds from *send* to the last task's own word."""
        key = next(self._keys)
        began = time.perf_counter()
        send(key)
        if self._client.blpop([key], timeout=PATIENCE) is None:
            raise SystemExit(f"Celery did not finish:\n{self._worker.output[-2000:]}")
        return time.perf_counter() - began

    def close(self) -> None:
        """Stop the worker."""
        # Celery's result handles unsubscribe when they are collected; by then there is no Redis to say it to.
        self.peer.app.backend.result_consumer.cancel_for = lambda _task: None
        self._worker.stop(within=timedelta(seconds=60))
        self._worker.close()
        self._client.close()
        self._broker.close()


class Bench:
    """What the parts measure with; everything is started at its first use."""

    def __init__(self, stack: contextlib.ExitStack, *, rounds: int, scale: float, workers: int) -> None:
        self._stack = stack
        self.rounds = rounds
        self.scale = scale
        self.workers = workers
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coord-bench-")))
        self._numbers = itertools.count()

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

    def environment(self, kind: str, *, database: int) -> dict[str, str]:
        """What a process of ours is told: a new database, the Redis, a home of its own."""
        home = self.folder / f"home-{next(self._numbers)}"
        return {
            "COORD_DATABASE_URL": self.database(kind),
            "COORD_REDIS_URL": self.redis_url(database),
            "COORD_HOME": str(home),
        }

    @cached_property
    def ours(self) -> dict[str, OurStack]:
        """Our stacks, warm: one on each store, on the peer's Redis."""
        made = {}
        for number, kind in enumerate(STORES, start=1):
            stack = OurStack(kind, self.environment(kind, database=number))
            self._stack.callback(stack.close)
            for _ in range(self.workers):
                stack.start_worker()
            stack.seconds([no_op(f"warm-{index}") for index in range(self.size(500))])
            made[kind] = stack
        return made

    @cached_property
    def peer(self) -> PeerStack:
        """Raw Celery, warm."""
        socket = self.redis.socket
        urls = {
            "BENCH_BROKER": f"redis+socket://{socket}?virtual_host=8",
            "BENCH_RESULTS": f"redis+socket://{socket}?virtual_host=9",
            "BENCH_QUEUE": f"unix://{socket}?db=8",
            "BENCH_DONE": f"unix://{socket}?db=10",
        }
        stack = PeerStack(urls, self.folder)
        self._stack.callback(stack.close)
        stack.no_ops(self.size(500))
        return stack


def no_op(key: str, *, needs: Sequence[str] = ()) -> Task:
    """A Python task that does nothing."""
    return Task(key, jobs.nothing, needs=needs)


def open_bench(*, rounds: int, scale: float, workers: int) -> AbstractContextManager[Bench]:
    """A bench, everything it starts stopped at the end."""

    @contextlib.contextmanager
    def opened() -> Iterator[Bench]:
        with contextlib.ExitStack() as stack:
            yield Bench(stack, rounds=rounds, scale=scale, workers=workers)

    return opened()


def _prepare(url: str) -> None:
    store = open_store(url)
    try:
        schema.prepare(store)
    finally:
        store.close()
