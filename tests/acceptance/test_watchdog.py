"""Test that a worker which no longer receives messages restarts and finishes its tasks, and that an idle one stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.plans.plans import Concurrency, Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.settings import load_settings
from coordination.stack.home import Home
from tests.support.apps import app_of
from tests.support.command import coord_in
from tests.support.fleet import Fleet, alive
from tests.support.processes import Process, Processes, until
from tests.support.sources import ROOT

pytestmark = pytest.mark.stores("sqlite")

SOON = {"COORD_WATCHDOG": "2s", "COORD_LOG_LEVEL": "info"}
DEAF = "this worker receives no messages"
HOLD = "touch started.$COORD_ATTEMPT; while [ ! -e go ]; do sleep 0.05; done; echo by $COORD_ATTEMPT"


def make_deaf(env: Mapping[str, str], command: str = "cancel_consumer") -> None:
    """Stop a worker's consumer by Celery's remote control, which is available a moment after the worker is ready."""
    with app_of(load_settings(env)) as app:
        wanted = {"queue": "jobs"} if command == "cancel_consumer" else {}
        until(
            lambda: app.control.broadcast(command, arguments=wanted, reply=True, timeout=1, limit=1),
            what=f"an answer to {command}",
        )


def lives(worker: Process) -> int:
    return len(re.findall("worker process begun", worker.output))


def test_a_deaf_worker_starts_anew_under_its_pid_and_finishes_the_work(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2", **SOON)
    first = fleet.submit(Task("before", {"shell": "true"}))
    assert first.wait(timeout=20) is RunState.COMPLETED
    make_deaf(fleet.env)

    run = fleet.submit(Task("a", {"shell": "echo heard"}), Task("b", {"shell": "true"}, needs=["a"]))

    worker.wait_for(DEAF)
    assert run.wait(timeout=30) is RunState.COMPLETED
    assert run.task("a").output == "heard"
    assert [task.record.attempt for task in run.tasks()] == [1, 1]
    assert (worker.exit_code, lives(worker)) == (None, 2)
    assert worker.stop(within=timedelta(seconds=20)) == 0


def test_a_worker_whose_loop_lost_its_sockets_starts_anew(fleet: Fleet) -> None:
    # Before a free slot claims the task that was enqueued two seconds ago: a stopped consumer would not show then.
    soon = {**SOON, "COORD_WATCHDOG": "1s"}
    worker = fleet.worker("-c", "2", "-I", "tests.support.deaf", **soon, PYTHONPATH=str(ROOT))
    first = fleet.submit(Task("before", {"shell": "true"}))
    assert first.wait(timeout=20) is RunState.COMPLETED
    make_deaf(fleet.env, "forget_sockets")

    run = fleet.submit(Task("a", {"shell": "true"}))

    worker.wait_for(DEAF)
    assert run.wait(timeout=30) is RunState.COMPLETED
    assert (worker.exit_code, lives(worker)) == (None, 2)


def test_a_job_that_runs_meanwhile_goes_on_until_the_grace(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2", **SOON, COORD_SHUTDOWN_GRACE="60s")
    long = fleet.submit(Task("long", {"shell": HOLD}))
    until(lambda: fleet.file("started.1").exists(), what="the job")
    make_deaf(fleet.env)
    run = fleet.submit(Task("a", {"shell": "true"}))

    worker.wait_for("draining")
    assert long.task("long").state is TaskState.RUNNING
    fleet.file("go").touch()

    assert long.wait(timeout=30) is RunState.COMPLETED
    assert long.task("long").output == "by 1"
    assert run.wait(timeout=30) is RunState.COMPLETED
    assert lives(worker) == 2


def test_a_job_that_outlives_the_grace_is_handed_back_uncharged(fleet: Fleet) -> None:
    fleet.worker("-c", "2", **SOON, COORD_SHUTDOWN_GRACE="200ms")
    long = fleet.submit(Task("long", {"shell": f"echo $$ > pid.$COORD_ATTEMPT; {HOLD}"}))
    pid = int(fleet.await_file("pid.1"))
    make_deaf(fleet.env)
    run = fleet.submit(Task("a", {"shell": "true"}))

    assert run.wait(timeout=30) is RunState.COMPLETED
    fleet.await_file("pid.2")
    assert not alive(pid)
    fleet.file("go").touch()

    assert long.wait(timeout=30) is RunState.COMPLETED
    assert [attempt.outcome for attempt in long.task("long").attempts()] == ["handed_back", "completed"]
    assert long.task("long").record.losses == 0


def test_one_that_is_told_to_stop_while_it_drains_does_not_come_back(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2", **SOON, COORD_SHUTDOWN_GRACE="60s")
    long = fleet.submit(Task("long", {"shell": HOLD}))
    until(lambda: fleet.file("started.1").exists(), what="the job")
    make_deaf(fleet.env)
    fleet.submit(Task("a", {"shell": "true"}))
    worker.wait_for("draining")

    worker.signal(15)
    fleet.file("go").touch()

    assert worker.wait(within=timedelta(seconds=30)) == 0
    assert lives(worker) == 1
    assert long.state is RunState.COMPLETED


def test_plain_celery_starts_anew_as_well(fleet: Fleet) -> None:
    worker = fleet.processes.start_python(
        *("-m", "celery", "-A", "workers.app", "worker", "-c", "2", "-n", "plain@%h"), env={**fleet.env, **SOON}
    )
    worker.wait_for("worker process begun")
    first = fleet.submit(Task("before", {"shell": "true"}))
    assert first.wait(timeout=20) is RunState.COMPLETED
    make_deaf(fleet.env)

    run = fleet.submit(Task("a", {"shell": "true"}))

    assert run.wait(timeout=40) is RunState.COMPLETED
    assert lives(worker) == 2


def test_the_worker_of_an_embedded_stack_stays_the_child_that_its_owner_knows(
    processes: Processes, tmp_path: Path
) -> None:
    coord = coord_in(tmp_path, **SOON)
    owner = processes.start_python("-m", "coordination.cli", "up", env=coord.environment, cwd=coord.cwd)
    owner.wait_for("stack is up")
    before = Home(coord.home).read()
    assert before is not None
    make_deaf({"COORD_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)})
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\ntasks:\n  - key: a\n    run: {shell: echo heard}\n")

    output = coord.process("run", plan)

    assert "1 completed" in output.out
    assert DEAF in Home(coord.home).log("worker").read_text()
    after = Home(coord.home).read()
    assert after is not None
    assert after.services["worker"] == before.services["worker"]
    assert after.services["worker"].alive()
    coord.process("down")
    assert not after.services["worker"].alive()


class TestNoRestart:
    """Test that a worker does not restart: each test waits three times as long as a wrong watchdog would need."""

    PATIENCE = timedelta(seconds=1)
    ENV = {"COORD_WATCHDOG": "1s", "COORD_LOG_LEVEL": "info"}  # noqa: RUF012

    def wait_in_vain(self, worker: Process) -> None:
        with pytest.raises(AssertionError, match="did not say"):
            worker.wait_for(DEAF, within=4 * self.PATIENCE)
        assert lives(worker) == 1

    def test_while_the_queue_is_empty(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "2", **self.ENV)

        self.wait_in_vain(worker)

    def test_while_every_slot_is_taken_and_more_waits(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "2", **self.ENV)
        run = fleet.submit(*[Task(f"t{n}", {"shell": HOLD}) for n in range(8)])
        fleet.await_event(run, EventType.STARTED)

        self.wait_in_vain(worker)

        fleet.file("go").touch()
        assert run.wait(timeout=30) is RunState.COMPLETED

    def test_while_a_limit_leaves_slots_free_and_tasks_waiting(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "4", **self.ENV)
        run = fleet.submit(*[Task(f"t{n}", {"shell": HOLD}) for n in range(8)], concurrency=Concurrency(project=1))
        fleet.await_event(run, EventType.STARTED)

        self.wait_in_vain(worker)

        fleet.file("go").touch()
        assert run.wait(timeout=30) is RunState.COMPLETED

    def test_while_the_project_is_on_hold(self, fleet: Fleet) -> None:
        first = fleet.submit(Task("a", {"shell": "true"}), Task("b", {"shell": "true"}))
        fleet.co.projects.pause("fleet")
        worker = fleet.worker("-c", "2", **self.ENV)
        until(lambda: {task.state for task in first.tasks()} == {TaskState.BLOCKED}, what="held back")

        self.wait_in_vain(worker)

    def test_when_it_is_switched_off(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "2", **{**self.ENV, "COORD_WATCHDOG": "0"})
        make_deaf(fleet.env)
        fleet.submit(Task("a", {"shell": "true"}))

        self.wait_in_vain(worker)
