"""Test blame when workers die: only a job that ended the process in which it ran alone, three times, is blamed."""

from __future__ import annotations

import random
import signal
import time
from datetime import timedelta

import pytest

from coordination.domain.fleet.leases import MAX_LOSSES
from coordination.domain.plans.plans import Defaults, Plan, ProjectRef, Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from tests.support.fleet import Fleet, alive
from tests.support.processes import until

pytestmark = pytest.mark.expiring

ONCE = Defaults(max_attempts=1)
KILLER = {"shell": "echo $PPID >> parents; sleep 0.5; kill -KILL $PPID; sleep 60"}


def test_a_job_that_kills_its_worker_fails_and_those_beside_it_do_not(fleet: Fleet) -> None:
    fleet.worker("-c", "6")
    beside = [Task(f"good{number}", {"shell": "sleep 1.5; echo fine"}) for number in range(4)]
    run = fleet.submit(*beside, Task("killer", KILLER), defaults=ONCE)
    fleet.await_file("parents")
    survivor = fleet.worker("-c", "6")
    after = fleet.submit(Task("after", {"shell": "echo fine"}))

    run.wait(timeout=60)

    assert {task.key: task.state for task in run.tasks()} == {
        **{one.key: TaskState.COMPLETED for one in beside},
        "killer": TaskState.FAILED,
    }
    killer = run.task("killer")
    assert [one.outcome for one in killer.attempts()] == [Outcome.LOST] * (1 + MAX_LOSSES)
    assert killer.record.error is not None
    assert "its worker died 3 times while it ran alone in a process of its own" in killer.record.error
    parents = fleet.file("parents").read_text().split()
    assert len(set(parents)) == len(parents) == 1 + MAX_LOSSES, "each in a process of its own"
    assert all(task.record.failures == 0 for task in run.tasks())
    assert after.wait(timeout=20) is RunState.COMPLETED
    assert alive(survivor.pid), "only its helpers died"


def test_a_suspect_that_completes_alone_goes_on_as_any_other(fleet: Fleet) -> None:
    first = fleet.worker("-c", "2")
    script = "echo $PPID > parent.$COORD_ATTEMPT; if [ $COORD_ATTEMPT = 1 ]; then sleep 60; fi; echo by $COORD_ATTEMPT"
    after = Task("next", {"shell": "echo $PPID > parent.next"}, needs=["job"])
    run = fleet.submit(Task("job", {"shell": script}), after)
    fleet.await_file("parent.1")
    first.kill()
    second = fleet.worker("-c", "2")

    assert run.wait(timeout=30) is RunState.COMPLETED

    assert run.task("job").output == "by 2"
    alone, beside = (int(fleet.file(f"parent.{name}").read_text()) for name in ("2", "next"))
    assert alone not in (first.pid, second.pid)
    assert beside == second.pid
    until(lambda: not alive(alone), what="the helper has gone")


def test_a_suspect_can_be_canceled_and_is_handed_back_when_its_worker_goes(fleet: Fleet) -> None:
    first = fleet.worker("-c", "2")
    script = "echo $$ > {0}.$COORD_ATTEMPT; sleep 60"
    run = fleet.submit(Task("a", {"shell": script.format("a")}), Task("b", {"shell": script.format("b")}))
    fleet.await_file("a.1")
    fleet.await_file("b.1")
    first.kill()
    second = fleet.worker("-c", "2", COORD_SHUTDOWN_GRACE="0s")
    pids = [int(fleet.await_file(f"{key}.2")) for key in "ab"]

    run.task("a").cancel()
    until(lambda: not alive(pids[0]), what="the end of the canceled job")
    second.signal(signal.SIGTERM)

    assert second.wait() == 0
    assert not alive(pids[1])
    assert run.task("a").state is TaskState.CANCELED
    outcomes = [[one.outcome for one in run.task(key).attempts()] for key in "ab"]
    assert outcomes == [[Outcome.LOST, Outcome.CANCELED], [Outcome.LOST, Outcome.HANDED_BACK]]


def test_a_suspect_goes_with_its_worker_and_that_is_held_against_nobody(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2")
    run = fleet.submit(Task("job", {"shell": "echo $$ > pid.$COORD_ATTEMPT; test $COORD_ATTEMPT = 6 || sleep 60"}))
    for attempt in range(1, 6):
        job = int(fleet.await_file(f"pid.{attempt}"))
        worker.kill()
        until(lambda job=job: not alive(job), what="the end of the job")
        worker = fleet.worker("-c", "2")

    assert run.wait(timeout=30) is RunState.COMPLETED
    task = run.task("job")
    *interrupted, last = [one.outcome for one in task.attempts()]
    # A suspect's own process notices its worker's end, and may hand the job back before the warden ends it.
    assert len(interrupted) == 5
    assert set(interrupted) <= {Outcome.LOST, Outcome.HANDED_BACK}
    assert last is Outcome.COMPLETED
    assert task.record.failures == 0


def test_attempts_of_a_stopped_worker_are_lost_in_every_project_and_none_is_a_failure(fleet: Fleet) -> None:
    first = fleet.worker("-c", "4")
    fleet.file("naps.py").write_text(
        "import os, time\n\n\ndef nap():\n    time.sleep(60 if os.environ['COORD_ATTEMPT'] == '1' else 0)\n"
    )
    jobs = [{"python": "naps:nap"}, {"shell": "test $COORD_ATTEMPT -gt 1 || sleep 60; true"}]
    runs = []
    for number in range(4):
        folder = fleet.file(f"project{number}")
        folder.mkdir()
        path = [str(fleet.file("naps.py").parent)]
        plan = Plan(
            [Task("job", jobs[number % 2])], defaults=ONCE, python_path=path, project=ProjectRef(path=str(folder))
        )
        runs.append(fleet.co.submit(plan))
    until(lambda: all(run.task("job").state is TaskState.RUNNING for run in runs), what="all of them run")
    for run in runs:
        fleet.await_event(run, EventType.STARTED, key="job")

    fleet.suspend(first)
    fleet.worker("-c", "4")
    until(lambda: any(run.task("job").record.attempt > 1 for run in runs), what="the first rescue")
    first.signal(signal.SIGCONT)

    assert [run.wait(timeout=40) for run in runs] == [RunState.COMPLETED] * 4
    for run in runs:
        assert [one.outcome for one in run.task("job").attempts()] == [Outcome.LOST, Outcome.COMPLETED]


def test_forty_jobs_all_complete_although_their_two_workers_are_killed_twelve_times(fleet: Fleet) -> None:
    dice = random.Random(12)  # noqa: S311 - which worker, no secret
    workers = [fleet.worker("-c", "5"), fleet.worker("-c", "5")]
    run = fleet.submit(*[Task(f"t{number}", {"shell": "sleep 1"}) for number in range(40)], defaults=ONCE)

    for _ in range(12):
        until(lambda: run.record.counts.get(TaskState.RUNNING, 0) > 0, what="something runs")
        time.sleep(dice.uniform(0, 0.5))
        which = dice.randrange(2)
        workers[which].kill()
        workers[which] = fleet.worker("-c", "5")
        if run.record.state is RunState.COMPLETED:
            break

    assert run.wait(timeout=120) is RunState.COMPLETED
    tasks = run.tasks()
    assert sum(one.outcome is Outcome.LOST for task in tasks for one in task.attempts()) > 5
    assert {task.record.failures for task in tasks} == {0}


def test_a_lease_that_was_not_renewed_in_time_is_lost_whatever_its_job_returned(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2")
    script = "touch began.$COORD_ATTEMPT; sleep 2; echo by $COORD_ATTEMPT"
    run = fleet.submit(Task("job", {"shell": script}), defaults=ONCE)
    until(lambda: fleet.file("began.1").exists(), what="its beginning")

    fleet.suspend(worker)  # alone: no other worker claims the task meanwhile
    time.sleep((fleet.co.runtime.settings.leases().ttl + timedelta(seconds=1)).total_seconds())
    worker.signal(signal.SIGCONT)

    assert run.wait(timeout=30) is RunState.COMPLETED
    outcomes = [one.outcome for one in run.task("job").attempts()]
    assert outcomes == [Outcome.LOST, Outcome.COMPLETED]
