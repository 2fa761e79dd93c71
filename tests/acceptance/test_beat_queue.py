"""Beat without any worker: what it asks for does not pile up, and a worker that comes later is not flooded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from coordination.domain.plans import Task
from coordination.domain.runs import RunState
from coordination.settings import client_url
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Processes, until
from workers.beat import MOST_WAITING

# Beat as it is shipped, but in a hurry: some minutes of its life in a second.
HURRIED_BEAT = """
import sys
from workers.app import app
for entry in app.conf.beat_schedule.values():
    entry["schedule"] = 0.01
app.Beat(loglevel="INFO", schedule=sys.argv[1], quiet=True).run()
"""
QUEUE = "coord:supervise"


@pytest.fixture
def fleet(processes: Processes, sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet without workers."""
    with fleet_on(processes, sqlite_url, redis_url, tmp_path) as made:
        yield made


def test_the_queue_stays_short_while_no_worker_lives(fleet: Fleet) -> None:
    beats = [
        fleet.processes.start_python("-c", HURRIED_BEAT, fleet.folder / f"beat-{number}", env=fleet.env)
        for number in range(2)
    ]
    client = redis.Redis.from_url(client_url(fleet.env["COORD_REDIS_URL"]))
    with client:
        turns = 5 * MOST_WAITING
        for beat in beats:
            until(
                lambda beat=beat: beat.output.count("Sending due task") > turns,
                within=timedelta(seconds=60),
                what=f"{turns} turns of beat",
            )

        waiting = client.llen(QUEUE)

        assert MOST_WAITING <= waiting <= MOST_WAITING + len(beats)  # each looks before it sends
        run = fleet.submit(Task("hello", {"shell": "echo hello"}))
        fleet.worker()
        assert run.wait(timeout=30) is RunState.COMPLETED
        for beat in beats:
            beat.stop()
        until(lambda: client.llen(QUEUE) == 0, what="the queue is empty again")
