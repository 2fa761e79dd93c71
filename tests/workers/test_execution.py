"""What a thread may run together."""

from __future__ import annotations

import os
import subprocess
import sys

BATCH = """
import time
from dataclasses import replace
from tests.support.jobs import claim_of
from workers.execution import Execution
from workers.held import Held
from workers.runners.registry import Runners

class Willing(Execution):
    def _oldest_fresh(self):
        return 0.0

SHARED = {"python": "x:y"}  # as claims of one statement have it

def together(*, work=SHARED, **options):
    execution = object.__new__(Willing)
    execution._runners = Runners()
    claims = [
        replace(claim_of({}), key=key, work=work if key == "c" else SHARED, options=options if key == "c" else {})
        for key in "abcd"
    ]
    found, _ = execution._rendered([Held(one, time.monotonic()) for one in claims])
    execution._runners.close()
    return "".join(one.key for one in found)

print(together(), together(gates=["true"]), together(workspace={"kind": "git-worktree"}))
print(together(work={"shell": "true"}), together(work={"unheard": "of"}))
print(together(work={"python": "x:y", "args": {"a": "{{ task.key }}"}}), together(work={"python": "{{ nothing }}:y"}))
"""


def test_a_batch_ends_before_a_task_that_more_belongs_to_than_its_job(redis_url: str, sqlite_url: str) -> None:
    environment = {**os.environ, "COORD_DATABASE_URL": sqlite_url, "COORD_REDIS_URL": redis_url}

    told = subprocess.run(
        [sys.executable, "-c", BATCH], env=environment, capture_output=True, text=True, check=False, timeout=60
    )

    assert told.stdout.split() == ["abcd", "ab", "ab", "ab", "ab", "abcd", "abcd"], told.stderr


PROMOTE = """
from dataclasses import replace
from tests.support.jobs import claim_of
from workers.bundles import Bundle
from workers.execution import Execution
from workers.held import Held

def held(key, ahead=None):
    return Held(replace(claim_of({}), key=key), 0.0, ahead=ahead)

execution = object.__new__(Execution)
execution._write = lambda *arguments, **more: None  # the database is away
bundle = Bundle([held("a"), held("d")], sent=0.0)
bundle.take(1)
slow = held("b", ahead=1)
bundle.append([held("c", ahead=1), held("e", ahead=1)])
execution._promote(bundle, slow)
print("".join(one.claim.key for one in bundle.take(9)))
"""


def test_when_one_that_ran_ahead_is_slow_others_do_not_run_ahead_of_what_is_written_for_it(
    redis_url: str, sqlite_url: str
) -> None:
    environment = {**os.environ, "COORD_DATABASE_URL": sqlite_url, "COORD_REDIS_URL": redis_url}

    told = subprocess.run(
        [sys.executable, "-c", PROMOTE], env=environment, capture_output=True, text=True, check=False, timeout=60
    )

    assert told.stdout.split() == ["d"], told.stderr
