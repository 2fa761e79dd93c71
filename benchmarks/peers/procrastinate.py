"""Procrastinate on PostgreSQL: two processes with twenty coroutines each, every job's end committed."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

import psycopg
import redis

from benchmarks.peers import PATIENCE, Place
from benchmarks.places import ROOT
from tests.support.processes import Process


class Peer:
    """Procrastinate as its documentation has it."""

    about = "two processes of twenty coroutines on PostgreSQL"

    def __init__(self, place: Place) -> None:
        environment = {
            "BENCH_DATABASE": place.new_database(),
            "BENCH_CLIENT": place.redis_url(),
            "PYTHONPATH": str(ROOT),
        }
        os.environ.update(environment)
        self._tasks = import_module("benchmarks.peers.procrastinate_app")  # reads where its database is
        self._opened = self._tasks.app.open()
        self._opened.schema_manager.apply_schema()
        self._keys = (f"done-{number}" for number in itertools.count())
        self._client = redis.Redis.from_url(place.redis_url(), socket_timeout=None)
        self._rows = psycopg.connect(environment["BENCH_DATABASE"], autocommit=True)
        argv = [sys.executable, "-m", "benchmarks.peers.procrastinate_app"]
        self._workers = [Process(argv, env=environment, cwd=place.folder) for _ in range(2)]
        self.chain(2)

    def no_ops(self, count: int) -> float:
        """Seconds from the first job deferred, all in one batch, to the last one ended."""
        began = time.perf_counter()
        self._tasks.nothing.batch_defer(*[{} for _ in range(count)])
        while self._open():
            if time.perf_counter() - began > PATIENCE:
                raise SystemExit(f"Procrastinate left {self._open()} of {count} jobs:\n{self._said()}")
            time.sleep(0.01)
        return time.perf_counter() - began

    def chain(self, count: int) -> float:
        """Each job defers the next."""
        return self._until_over(lambda key: self._tasks.hop.defer(key=key, left=count))

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.stop(within=timedelta(seconds=60))
            worker.close()
        self._opened.close()
        self._rows.close()
        self._client.close()

    def _open(self) -> int:
        row = self._rows.execute("SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')").fetchone()
        assert row is not None
        return int(row[0])

    def _until_over(self, send: Callable[[str], Any]) -> float:
        key = next(self._keys)
        began = time.perf_counter()
        send(key)
        if self._client.blpop([key], timeout=PATIENCE) is None:
            raise SystemExit(f"Procrastinate did not finish:\n{self._said()}")
        return time.perf_counter() - began

    def _said(self) -> str:
        return "\n".join(worker.output[-2000:] for worker in self._workers)
