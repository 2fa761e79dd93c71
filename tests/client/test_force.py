"""Forcing a task's state from Python and from the command line, on a store without workers and on real ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.plans import Task
from coordination.domain.runs import RunState
from coordination.domain.tasks import TaskState
from coordination.errors import Refused
from tests.support.fleet import Fleet, alive, fleet_on
from tests.support.processes import Processes, until


@pytest.fixture
def fleet(processes: Processes, store_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet_on(processes, store_url, redis_url, tmp_path) as made:
        yield made


def test_the_job_of_a_forced_task_is_stopped_and_its_dependants_go_on(fleet: Fleet) -> None:
    fleet.worker("-c", "2", COORD_LEASE_HEARTBEAT="1s")
    run = fleet.submit(
        Task("hangs", {"shell": "echo $$ > pid; sleep 60"}),
        Task("after", {"shell": "echo {{ needs.hangs.output.rows }}"}, needs=["hangs"]),
    )
    pid = int(fleet.await_file("pid"))

    done = run.task("hangs").force("completed", reason="it had written all rows", output={"rows": 7})

    assert run.wait(timeout=20) is RunState.COMPLETED
    assert run.task("after").output == "7"
    assert (done.before, done.state) == (TaskState.RUNNING, TaskState.COMPLETED)
    until(lambda: not alive(pid), within=timedelta(seconds=5), what="the end of the job")
    until(
        lambda: [attempt.outcome for attempt in run.task("hangs").attempts()] == ["canceled", "completed"],
        what="the attempt's end",
    )


def test_a_state_that_there_is_not_is_refused_with_the_names_that_there_are(fleet: Fleet) -> None:
    run = fleet.submit(Task("a", {"shell": "true"}))

    with pytest.raises(Refused, match="There is no state 'done'") as refused:
        run.task("a").force("done", reason="x")

    assert "blocked, queued, running, completed, failed, canceled" in refused.value.sentence()
    assert run.task("a").state is TaskState.QUEUED
