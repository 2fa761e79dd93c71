"""Test that a worker runs jobs only of the workspaces that it is started for, whoever shares its database and Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from coordination.api.connection import Coordination
from coordination.api.runs import Run
from coordination.base.errors import REFUSED
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.tasks.tasks import RunState
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from tests.support.command import coord_in
from tests.support.fleet import Fleet
from tests.support.processes import Processes, until

pytestmark = pytest.mark.own_worker

Submit = Callable[..., Run]


@pytest.fixture
def submit(fleet: Fleet) -> Iterator[Submit]:
    """Submit tasks in the workspace of that name, all in one folder."""
    with ExitStack() as opened:
        workspaces: dict[str, Coordination] = {}

        def made(workspace: str, *tasks: Task) -> Run:
            if workspace not in workspaces:
                settings = load_settings({**fleet.env, "COORD_WORKSPACE": workspace})
                workspaces[workspace] = opened.enter_context(Coordination(open_runtime(settings)))
            place = ProjectRef(name="shared", path=str(fleet.folder / "project"))
            return workspaces[workspace].submit(Plan(tasks, project=place))

        yield made


def workers_of(run: Run) -> set[str | None]:
    return {attempt.worker for task in run.tasks() for attempt in task.attempts()}


def job(key: str) -> Task:
    return Task(key, {"shell": "echo $PPID"})


@pytest.mark.smoke
def test_a_worker_leaves_jobs_of_other_workspaces_alone(fleet: Fleet, submit: Submit) -> None:
    worker = fleet.worker("-c", "2", COORD_WORKSPACE="alice")
    theirs = submit("bob", job("a"), Task("b", {"python": "os:getpid"}))
    ours = submit("alice", job("a"))

    assert ours.wait(timeout=30) is RunState.COMPLETED
    time.sleep(3)  # several sweeps, searches for prefetched tasks, and ticks
    assert {task.record.attempt for task in theirs.tasks()} == {0}

    fleet.worker("-c", "2", COORD_WORKSPACE="bob")
    assert theirs.wait(timeout=30) is RunState.COMPLETED
    assert worker.exit_code is None
    assert workers_of(ours).isdisjoint(workers_of(theirs))


def test_two_workers_on_one_redis_each_do_their_own(fleet: Fleet, submit: Submit) -> None:
    for name in ("alice", "bob"):
        fleet.worker("-c", "2", COORD_WORKSPACE=name, COORD_WATCHDOG="2s")

    runs = {name: submit(name, *[job(f"t{number}") for number in range(20)]) for name in ("alice", "bob")}

    assert {run.wait(timeout=60) for run in runs.values()} == {RunState.COMPLETED}
    assert workers_of(runs["alice"]).isdisjoint(workers_of(runs["bob"]))
    assert len(workers_of(runs["alice"]) | workers_of(runs["bob"])) == 2, "none of them was taken for deaf"


@pytest.mark.expiring
def test_what_a_dead_worker_held_waits_for_a_worker_of_its_workspace(fleet: Fleet, submit: Submit) -> None:
    dead = fleet.worker("-c", "1", COORD_WORKSPACE="bob")
    run = submit("bob", Task("held", {"shell": "touch begun.$COORD_ATTEMPT; while [ ! -e go ]; do sleep 0.05; done"}))
    fleet.await_file_made("begun.1")
    fleet.worker("-c", "2", COORD_WORKSPACE="alice")
    os.kill(dead.pid, signal.SIGKILL)
    assert submit("alice", job("a")).wait(timeout=30) is RunState.COMPLETED
    time.sleep(fleet.co.runtime.settings.leases().ttl.total_seconds() + 2)
    assert not fleet.file("begun.2").exists()

    fleet.worker("-c", "1", COORD_WORKSPACE="bob")
    fleet.await_file_made("begun.2")
    fleet.file("go").touch()

    assert run.wait(timeout=30) is RunState.COMPLETED
    assert [attempt.number for attempt in run.task("held").attempts()] == [1, 2]


@pytest.mark.parametrize("served", ["*", "alice, bob"])
def test_a_worker_of_several_workspaces_keeps_their_interpreters_apart(
    fleet: Fleet, submit: Submit, served: str
) -> None:
    fleet.worker("-c", "1", COORD_WORKSPACES=served)

    def interpreter(workspace: str) -> object:
        run = submit(workspace, Task("pid", {"python": "os:getpid"}))
        assert run.wait(timeout=30) is RunState.COMPLETED
        return run.task("pid").output

    alice, bob, again = interpreter("alice"), interpreter("bob"), interpreter("alice")

    assert alice == again
    assert alice != bob


def test_beat_and_housekeeping_ring_for_nobody_elses_tasks(fleet: Fleet, submit: Submit) -> None:
    fleet.worker("-c", "1", COORD_WORKSPACE="alice")
    theirs = submit("bob", job("a"))
    time.sleep(2)

    assert submit("alice", job("a")).wait(timeout=30) is RunState.COMPLETED
    with fleet.co.runtime.wakeups.client as client:  # type: ignore[union-attr]
        until(lambda: not client.llen("coord:jobs"), what="all messages are taken")
    assert [event.type.value for event in theirs.events(follow=False)].count("task_rung") == 0
    assert theirs.task("a").record.attempt == 0


def test_a_stack_of_another_workspace_is_refused_in_one_sentence(processes: Processes, tmp_path: Path) -> None:
    coord = coord_in(tmp_path, COORD_WORKSPACE="alice")
    owner = processes.start_python("-m", "coordination.cli", "up", env=coord.environment, cwd=coord.cwd)
    owner.wait_for("stack is up")
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\ntasks:\n  - {key: a, run: {shell: echo hi}}\n")

    refused = replace(coord, settings={"COORD_WORKSPACE": "bob"}).process("run", plan, code=REFUSED)

    assert "runs jobs of alice, and none of bob" in refused.err
    assert "COORD_WORKSPACES" in refused.err
    assert coord.process("run", plan).code == 0


def test_explain_and_doctor_say_that_no_worker_runs_jobs_of_the_workspace(fleet: Fleet, submit: Submit) -> None:
    fleet.worker("-c", "1", COORD_WORKSPACE="alice")
    submit("bob", job("a"))
    coord = coord_in(fleet.folder, **{**fleet.env, "COORD_WORKSPACE": "bob"})

    explained = coord("explain", "a").out
    output = coord("doctor", code=None).out

    assert "no living worker runs jobs of the workspace bob" in explained
    assert "none runs jobs of the workspace bob, and work waits" in output
