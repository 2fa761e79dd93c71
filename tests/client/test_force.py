"""Test forcing a task's state from Python and from the command line, on a store without workers and on real ones."""

from __future__ import annotations

from datetime import timedelta

from coordination.base.errors import Refused
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState, TaskState
from tests.support.fleet import Fleet, alive
from tests.support.processes import until
from tests.support.refusals import refuses


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

    with refuses(Refused, field="state"):
        run.task("a").force("done", reason="x")

    assert run.task("a").state is TaskState.QUEUED
