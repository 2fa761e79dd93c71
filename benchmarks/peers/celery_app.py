"""The tasks that raw Celery runs, and its worker process: ``python -m benchmarks.peers.celery_app worker …``.

No-ops, the parts of a chord, and the nodes of a graph with counters in Redis. Not crash-safe, and not meant to be:
messages are acknowledged early and nothing remembers what ran. The worker is configured by BENCH_ variables.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import redis
from celery import Celery

LEFT = "left"


def make_app(*, broker: str, results: str, client: str, keeps_results: bool) -> Celery:
    """A Celery app with our tasks. *client* is the URL where the last task of a chain or graph says that it is over."""
    app = Celery("peer", broker=broker, backend=results, set_as_current=False)
    app.conf.update(
        task_ignore_result=not keeps_results,
        task_serializer="json",
        accept_content=["json"],
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="nothing", shared=False)
    def nothing() -> None:
        """A no-op."""

    @app.task(name="part", ignore_result=False, shared=False)
    def part() -> None:
        """A no-op of a chord's header: its result has to be kept."""

    @app.task(name="over", shared=False)
    def over(key: str) -> None:
        """The last of a chain or chord says so."""
        _client(client).rpush(key, "1")

    @app.task(name="node", shared=False)
    def node(path: str, run: str, number: int) -> None:
        """A no-op that sends those of its children that wait for nothing else."""
        children = _graph(path)[number]
        pipeline = _client(client).pipeline(transaction=False)
        for child in children:
            pipeline.decr(f"{run}:{child}")
        pipeline.decr(f"{run}:{LEFT}")
        *waiting, left = pipeline.execute()
        released = [child for child, count in zip(children, waiting, strict=True) if count == 0]
        if released:
            with app.producer_or_acquire() as producer:
                for child in released:
                    node.apply_async((path, run, child), producer=producer)
        if left == 0:
            _client(client).rpush(run, "1")

    return app


@cache
def _client(url: str) -> Any:
    return redis.Redis.from_url(url)


@cache
def _graph(path: str) -> list[list[int]]:
    """By number, the children of each node; read once by every process."""
    found: list[list[int]] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    env = os.environ
    made = make_app(
        broker=env["BENCH_BROKER"],
        results=env["BENCH_RESULTS"],
        client=env["BENCH_CLIENT"],
        keeps_results=env["BENCH_KEEPS_RESULTS"] == "1",
    )
    made.worker_main(sys.argv[1:])
