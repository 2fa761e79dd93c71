"""Raw Celery as the peer: no-op tasks without results, its own chain, its own chord. Told where by BENCH_ variables."""

from __future__ import annotations

import os

import redis
from celery import Celery

app = Celery("peer", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_RESULTS"])
app.conf.update(
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def nothing() -> None:
    """A no-op without a result."""


@app.task(ignore_result=False)
def part() -> None:
    """A no-op of a chord's header: its result has to be kept."""


@app.task
def over(key: str) -> None:
    """The last of a chain or chord says so."""
    with redis.Redis.from_url(os.environ["BENCH_DONE"]) as client:
        client.rpush(key, "1")
