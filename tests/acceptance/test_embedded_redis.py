"""Test that a worker without a configured Redis uses that of the embedded stack of its home, like the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from coordination.stack.home import Home, RunningStack
from coordination.stack.processes import ServiceRecord
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Processes


@pytest.fixture
def fleet(processes: Processes, sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Provide a fleet whose home folder belongs to a stack: this process, with the Redis of the tests."""
    with fleet_on(processes, sqlite_url, redis_url, tmp_path) as created:
        home, owner = Home(Path(created.env["COORD_HOME"])).prepare(), ServiceRecord.of(os.getpid())
        lock = home.acquire()
        home.write(RunningStack(owner, datetime.now(UTC), "1", redis_url, sqlite_url))
        yield created
        os.close(lock)


@pytest.mark.parametrize("pool", [("-c", "2"), ("-P", "prefork", "-c", "2")])
def test_a_second_worker_beside_an_embedded_stack_runs_its_tasks(fleet: Fleet, pool: tuple[str, ...]) -> None:
    fleet.worker(*pool, COORD_REDIS_URL="")

    run = fleet.submit(Task("hello", {"shell": "echo hello"}))

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("hello").output == "hello"
