"""Jobs with limits on real workers: the job ends, the worker lives."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.limits import Limits
from coordination.domain.plans import Defaults, Task
from coordination.domain.runs import RunState
from coordination.domain.tasks import TaskState
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Processes

EATS = "def eats():\n    held = []\n    while True:\n        held.append(bytearray(b'x') * (8 << 20))\n"


@pytest.fixture
def fleet(processes: Processes, store_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on either store."""
    with fleet_on(processes, store_url, redis_url, tmp_path) as made:
        yield made


def test_a_job_that_eats_memory_is_ended_and_its_worker_goes_on(fleet: Fleet) -> None:
    fleet.file("hogs.py").write_text(EATS)
    worker = fleet.worker("-c", "4", COORD_JOB_MEMORY="300MiB")
    run = fleet.submit(
        Task("hog", {"python": "hogs:eats"}, limits=Limits(memory=200 << 20)),
        Task("greedy", {"python": "hogs:eats"}, limits=Limits(memory=900 << 30)),
        Task("few", {"shell": "ulimit -n"}),
        Task("more", {"shell": "ulimit -n"}, limits=Limits(files=77)),
        Task("well", {"python": "os:getpid"}),
        defaults=Defaults(limits=Limits(files=55), timeout=timedelta(seconds=60)),
    )

    assert run.wait(timeout=60) is RunState.FAILED

    assert (run.task("hog").error or "").endswith("of memory; it may use 200 MiB")
    assert (run.task("greedy").error or "").endswith("of memory; it may use 300 MiB")
    assert (run.task("few").output, run.task("more").output) == ("55", "77")
    assert run.task("well").state is TaskState.COMPLETED
    after = fleet.submit(Task("after", {"shell": "echo on"}))
    assert after.wait(timeout=30) is RunState.COMPLETED
    assert worker.exit_code is None
