"""Test beat without any worker: its messages do not pile up, and a worker that starts later is not flooded."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from coordination.settings import client_url
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.sources import ROOT
from workers.process.beat_scheduler import MOST_WAITING

pytestmark = pytest.mark.stores("sqlite")

QUEUE = "coord:supervise"


def test_the_queue_stays_short_while_no_worker_lives(fleet: Fleet) -> None:
    beats = [
        fleet.processes.start_python(
            "-m", "tests.support.hurried_beat", fleet.folder / f"beat-{number}", env=fleet.env, cwd=ROOT
        )
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

        assert MOST_WAITING <= waiting <= MOST_WAITING + len(beats)  # each checks before it sends
        run = fleet.submit(Task("hello", {"shell": "echo hello"}))
        fleet.worker()
        assert run.wait(timeout=30) is RunState.COMPLETED
        for beat in beats:
            beat.stop()
        until(lambda: client.llen(QUEUE) == 0, what="the queue is empty again")
