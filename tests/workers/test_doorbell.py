"""Rings of several messages go to Redis in one trip, and one by one when that trip fails."""

from __future__ import annotations

import os
import subprocess
import sys

RING = """
import sys
from unittest.mock import Mock
from kombu.exceptions import BatchPublishError
from kombu.transport.redis import PublishBatch
from coordination.ids import new_id
from coordination.store.queries.ready import Ready
from workers.app import app
from workers.doorbell import Doorbell

def said(command):
    with app.connection_for_read() as connection:
        return connection.default_channel.client.info("commandstats").get("cmdstat_" + command, {"calls": 0})["calls"]

store = Mock()
doorbell = Doorbell(store)
tasks = [Ready(new_id(), 1, f"k{number}", "A title", "python:x:y") for number in range(5)]

def ring(many=tasks):
    before = said("lpush")
    rung = doorbell.ring(new_id(), "shop", many, bundle=lambda kind: 1)
    with app.connection_for_read() as connection:
        waiting = connection.default_channel._size("jobs")
        connection.default_channel._purge("jobs")
    return rung, said("lpush") - before, waiting

trips = []
flush = PublishBatch.flush

def fails_once(self):
    trips.append(self._buffered)
    if len(trips) == 2:
        raise BatchPublishError("delivery is uncertain")
    flush(self)

PublishBatch.flush = fails_once
print(ring(tasks[:1]), ring(), trips)
print(ring(), trips)
with app.connection_for_read() as connection:
    client = connection.default_channel.client
    client.client_kill_filter(_type="normal", skipme=True)
print(ring(), trips)
"""


def test_several_messages_take_one_trip_and_arrive_also_when_that_fails(redis_url: str, sqlite_url: str) -> None:
    environment = {**os.environ, "COORD_DATABASE_URL": sqlite_url, "COORD_REDIS_URL": redis_url}

    told = subprocess.run(
        [sys.executable, "-c", RING], env=environment, capture_output=True, text=True, check=False, timeout=60
    )

    lines = [line for line in told.stdout.splitlines() if line.startswith("(")]
    assert len(lines) == 3, told.stderr
    alone, failed, cut = lines
    assert alone == "(True, 1, 1) (True, 5, 5) [5]"
    assert failed == "(True, 5, 5) [5, 5]"
    assert cut == "(True, 5, 5) [5, 5, 5]"
