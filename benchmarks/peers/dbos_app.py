"""The workflows that DBOS runs, and its worker process. Configured by BENCH_ variables."""

from __future__ import annotations

import os
import signal
import threading

import redis
from dbos import DBOS, DBOSConfig

QUEUE = "bench"
POLLING = 0.1
"""Seconds between two looks at the queue; its default is one second."""

VERSION = "bench"
"""One application version for all processes, so that each takes what another enqueued."""


def configuration() -> DBOSConfig:
    """The configuration of one worker process."""
    return {
        "name": "bench",
        "system_database_url": os.environ["BENCH_DATABASE"],
        "application_version": VERSION,
        "executor_id": os.environ["BENCH_EXECUTOR"],
        "log_level": "WARNING",
    }


@DBOS.workflow(name="nothing")
def nothing() -> None:
    """A no-op."""


@DBOS.step(name="one")
def one() -> None:
    """One step of a workflow, its end recorded."""


@DBOS.workflow(name="steps")
def steps(count: int, key: str) -> None:
    """A chain as DBOS would have it: steps of one workflow."""
    for _ in range(count):
        one()
    with redis.Redis.from_url(os.environ["BENCH_CLIENT"]) as client:
        client.rpush(key, "1")


@DBOS.workflow(name="fan")
def fan(count: int, key: str) -> None:
    """One step, many workflows through the queue, and one step when they have all ended."""
    one()
    handles = [DBOS.enqueue_workflow(QUEUE, nothing) for _ in range(count)]
    for handle in handles:
        handle.get_result(polling_interval_sec=0.01)
    one()
    with redis.Redis.from_url(os.environ["BENCH_CLIENT"]) as client:
        client.rpush(key, "1")


def _main() -> None:
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    DBOS(config=configuration())
    DBOS.launch()
    DBOS.register_queue(QUEUE, polling_interval_sec=POLLING)
    print("launched", flush=True)
    over.wait()
    DBOS.destroy()


if __name__ == "__main__":
    _main()
