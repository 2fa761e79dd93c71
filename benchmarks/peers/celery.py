"""Raw Celery: one worker with two prefork children, no results, acknowledging early. The base of the other two."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import redis
from celery import chain, chord, group

from benchmarks.peers import PATIENCE, Place
from benchmarks.peers.celery_app import LEFT, make_app
from benchmarks.places import ROOT
from tests.support.processes import Process


class Peer:
    """Celery as it is, with its own chain and chord, and graphs by counters in Redis."""

    about = "one worker, two prefork children, no results"
    pools: tuple[tuple[str, ...], ...] = (("-P", "prefork", "-c", "2"),)
    keeps_results = False

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = redis.Redis.from_url(place.redis_url(), socket_timeout=None)  # it waits for the last task
        self._keys = (f"done-{number}" for number in itertools.count())
        urls = {"broker": place.broker_url(), "results": self.results_url(), "client": place.redis_url()}
        self._app = make_app(**urls, keeps_results=self.keeps_results)
        environment = {
            **{f"BENCH_{name.upper()}": url for name, url in urls.items()},
            "BENCH_KEEPS_RESULTS": str(int(self.keeps_results)),
            "PYTHONPATH": str(ROOT),
        }
        self._workers = [
            Process(
                [
                    *(sys.executable, "-m", "benchmarks.peers.celery_app", "worker", *pool, "-n", f"peer{number}@%h"),
                    *("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"),
                ],
                env=environment,
                cwd=place.folder,
            )
            for number, pool in enumerate(self.pools)
        ]
        for _ in range(2 * len(self._workers)):  # until every worker has had one
            self._until_over(self._app.tasks["over"].delay)

    def results_url(self) -> str:
        """Where results go, of those that have one."""
        return self._place.broker_url()

    @property
    def pids(self) -> list[int]:
        """Its workers' processes; their children are the pools."""
        return [worker.pid for worker in self._workers]

    def no_ops(self, count: int) -> float:
        """Seconds from the first message sent to the last task taken by a child (no results: nothing says it ended)."""
        began = time.perf_counter()
        self._send(count)
        while self._client.llen("celery") or self._client.hlen("unacked"):
            time.sleep(0.005)
        return time.perf_counter() - began

    def chain(self, count: int) -> float:
        """Celery's own chain; its last task says that it is over."""
        nothing, over = self._app.tasks["nothing"], self._app.tasks["over"]
        return self._until_over(lambda key: chain(*[nothing.si()] * (count - 1), over.si(key)).apply_async())

    def fan(self, count: int) -> float:
        """Celery's own chord, with results in Redis, which it needs."""
        part, over = self._app.tasks["part"], self._app.tasks["over"]

        def send(key: str) -> None:
            (part.si() | chord(group(part.si() for _ in range(count)), over.si(key))).apply_async()

        return self._until_over(send)

    def graph(self, children: list[list[int]]) -> float:
        """Each finished task lowers its children's counters in Redis and sends those at zero."""
        path = self._place.folder / "graph.json"
        path.write_text(json.dumps(children), encoding="utf-8")
        needs = Counter(child for of in children for child in of)
        node = self._app.tasks["node"]

        def send(key: str) -> None:
            self._client.mset(
                {f"{key}:{child}": count for child, count in needs.items()} | {f"{key}:{LEFT}": len(children)}
            )
            with self._app.producer_or_acquire() as producer:
                for number in range(len(children)):
                    if number not in needs:
                        node.apply_async((str(path), key, number), producer=producer)

        return self._until_over(send)

    def close(self) -> None:
        """Stop the workers."""
        # Celery's result handles unsubscribe when they are collected; by then there is no Redis to say it to.
        if consumer := getattr(self._app.backend, "result_consumer", None):
            consumer.cancel_for = lambda _task: None
        for worker in self._workers:
            worker.stop(within=timedelta(seconds=60))
            worker.close()
        self._app.close()
        self._client.close()

    def _send(self, count: int) -> None:
        nothing = self._app.tasks["nothing"]
        with self._app.producer_or_acquire() as producer:
            for _ in range(count):
                nothing.apply_async((), producer=producer)

    def _until_over(self, send: Callable[[str], Any]) -> float:
        """Seconds from *send* to the last task's own word."""
        key = next(self._keys)
        began = time.perf_counter()
        send(key)
        if self._client.blpop([key], timeout=PATIENCE) is None:
            raise SystemExit("Celery did not finish:\n" + "\n".join(worker.output[-2000:] for worker in self._workers))
        return time.perf_counter() - began
