"""DBOS on PostgreSQL: two processes, workflows through a queue, every end committed."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import redis

from benchmarks.peers import PATIENCE, Place
from benchmarks.places import ROOT
from tests.support.processes import Process

_QUEUE, _VERSION = "bench", "bench"  # as in dbos_app, which is not imported here: it makes the process a worker


class Peer:
    """DBOS with its client outside and its workers apart."""

    about = "two processes on PostgreSQL, workflows through a queue; a hop is a step of a workflow"

    def __init__(self, place: Place) -> None:
        from dbos import DBOSClient

        database = place.new_database()
        self._keys = (f"done-{number}" for number in itertools.count())
        self._redis = redis.Redis.from_url(place.redis_url(), socket_timeout=None)
        self._workers = []
        for number in range(2):  # one after the other: the first one makes the schema
            environment = {
                "BENCH_DATABASE": database,
                "BENCH_CLIENT": place.redis_url(),
                "BENCH_EXECUTOR": f"executor-{number}",
                "PYTHONPATH": str(ROOT),
            }
            worker = Process([sys.executable, "-m", "benchmarks.peers.dbos_app"], env=environment, cwd=place.folder)
            worker.wait_for("launched")
            self._workers.append(worker)
        self._client = DBOSClient(system_database_url=database, application_name="bench")
        self._rows = psycopg.connect(database, autocommit=True)
        self.chain(1)

    def no_ops(self, count: int) -> float:
        """Seconds from the first workflow enqueued to the last one recorded as ended."""
        before = self._ended()
        began = time.perf_counter()
        for _ in range(count):
            self._enqueue("nothing")
        while self._ended() < before + count:
            if time.perf_counter() - began > PATIENCE:
                raise SystemExit(f"DBOS ended {self._ended() - before} of {count} workflows:\n{self._said()}")
            time.sleep(0.02)
        return time.perf_counter() - began

    def chain(self, count: int) -> float:
        """Steps of one workflow."""
        return self._until_over(lambda key: self._enqueue("steps", count, key))

    def fan(self, count: int) -> float:
        """A workflow that enqueues many and waits for them."""
        return self._until_over(lambda key: self._enqueue("fan", count, key))

    def close(self) -> None:
        """Stop the workers."""
        self._client.destroy()
        for worker in self._workers:
            worker.stop(within=timedelta(seconds=60))
            worker.close()
        self._rows.close()
        self._redis.close()

    def _enqueue(self, workflow: str, *arguments: Any) -> None:
        options = {"queue_name": _QUEUE, "workflow_name": workflow, "app_version": _VERSION}
        self._client.enqueue(options, *arguments)

    def _ended(self) -> int:
        row = self._rows.execute("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'").fetchone()
        assert row is not None
        return int(row[0])

    def _until_over(self, send: Callable[[str], Any]) -> float:
        key = next(self._keys)
        began = time.perf_counter()
        send(key)
        if self._redis.blpop([key], timeout=PATIENCE) is None:
            raise SystemExit(f"DBOS did not finish:\n{self._said()}")
        return time.perf_counter() - began

    def _said(self) -> str:
        return "\n".join(worker.output[-2000:] for worker in self._workers)
