"""Test jobs with limits on real workers: the job ends, the worker continues."""

from __future__ import annotations

from datetime import timedelta

from coordination.domain.jobs.resource_limits import Limits
from coordination.domain.plans.plans import Defaults, Task
from coordination.domain.tasks.tasks import RunState, TaskState
from tests.support.fleet import Fleet

EATS = "def eats():\n    held = []\n    while True:\n        held.append(bytearray(b'x') * (8 << 20))\n"


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
