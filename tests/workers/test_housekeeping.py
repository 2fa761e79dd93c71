"""What a worker's housekeeper does by the way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HOUSE = """
import gc, sys, time, weakref
from workers import housekeeping
housekeeping._TIDY_EVERY, housekeeping._POP_WAIT = float(sys.argv[1]), 0.01
from coordination.settings import load_settings
from workers.context import make_context

class Node:
    def __init__(self):
        self.me = self

housekeeper = housekeeping.Housekeeper(make_context(load_settings(), name="worker", slots=1))
gc.disable()
gone = weakref.ref(Node())
housekeeper.start()
end = time.monotonic() + float(sys.argv[2])
while gone() is not None and time.monotonic() < end:
    time.sleep(0.01)
housekeeper.stop()
print(gone() is None)
"""


@pytest.mark.parametrize(("every", "patience", "collected"), [(0.1, 30.0, "True"), (3600.0, 1.0, "False")])
def test_cycles_go_by_time_and_not_only_when_much_was_allocated(
    every: float, patience: float, collected: str, sqlite_url: str, redis_url: str
) -> None:
    environment = {**os.environ, "COORD_DATABASE_URL": sqlite_url, "COORD_REDIS_URL": redis_url}

    told = subprocess.run(
        [sys.executable, "-c", HOUSE, str(every), str(patience)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )

    assert told.stdout.split()[-1] == collected


LEAVING = """
import threading, time
from workers import housekeeping
housekeeping._POP_WAIT = 60
from coordination.settings import load_settings
from workers.context import make_context

context = make_context(load_settings(), name="worker", slots=1)
context.terms = replace(context.terms, sweep=timedelta(minutes=10))
housekeeper = housekeeping.Housekeeper(context)
housekeeper.start()
time.sleep(float(sys.argv[1]))
housekeeper.stop()
print([thread.name for thread in threading.enumerate() if thread.name in {"coord-housekeeping", "coord-cancels"}])
"""


@pytest.mark.parametrize("lived", [0.0, 2.0])
def test_it_ends_at_once_although_it_waits_for_a_nudge(lived: float, sqlite_url: str, redis_url: str) -> None:
    environment = {**os.environ, "COORD_DATABASE_URL": sqlite_url, "COORD_REDIS_URL": redis_url}
    program = "import sys\nfrom dataclasses import replace\nfrom datetime import timedelta\n" + LEAVING

    told = subprocess.run(
        [sys.executable, "-c", program, str(lived)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,  # half of what it would wait
        env=environment,
    )

    assert told.stdout.splitlines()[-1] == "[]"
