"""Test ``coord stop``: after it no process of a job is alive and no model is called, until ``coord start``."""

from __future__ import annotations

import json
import signal
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from coordination.domain.jobs import ChatCall
from coordination.domain.jobs.checkouts import Gate
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.projects.stops import StopResult
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import BlockReason, RunState, TaskState
from tests.support.fleet import Fleet
from tests.support.model_server import Broken, running_model_server
from tests.support.processes import until

pytestmark = [pytest.mark.own_worker]

# Hangs at its first attempt, with a child in a process session of its own; later attempts end at once.
HANGS = (
    "touch began.$COORD_TASK_KEY; if [ $COORD_ATTEMPT = 1 ]; then setsid sleep 600 & while :; do sleep 600; done; fi; "
    "echo by $COORD_ATTEMPT"
)
DEAF = "trap '' TERM; touch began.deaf; if [ $COORD_ATTEMPT = 1 ]; then while :; do sleep 1; done; fi; echo fine"
PATIENT = timedelta(seconds=120)


def of_jobs(fleet: Fleet) -> list[int]:
    """Return living processes, however detached, of any attempt of this test's database."""
    with fleet.co.runtime.store.read() as tx:
        ids = set(tx.execute(text("SELECT CAST(id AS TEXT) FROM tasks")).scalars())
    processes = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = b"\0" + (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it has just ended
        _, marked, rest = environment.partition(b"\0COORD_ATTEMPT_ID=")
        if marked and state not in {"Z", "X"} and rest.partition(b"\0")[0].decode()[:36] in ids:
            processes.append(int(folder.name))
    return processes


def started(fleet: Fleet) -> int:
    """Return the number of all attempts."""
    with fleet.co.runtime.store.read() as tx:
        return tx.execute(text("SELECT count(*) FROM attempts")).scalar_one()


def stop(fleet: Fleet, project: str | None = None, **options: object) -> StopResult:
    return fleet.co.stop(project, **{"timeout": PATIENT, **options})  # type: ignore[arg-type]


def assert_silent(fleet: Fleet, stopped: StopResult) -> None:
    assert stopped.silent, [(one.task, one.words()) for one in stopped.attempts]
    assert of_jobs(fleet) == []


def test_everything_ends_on_two_workers_and_goes_on_after_the_start(fleet: Fleet) -> None:
    with running_model_server([Broken("Well, ", "hang")] * 4 + ["Yes."] * 4) as server:
        chat = ChatCall("openai:gpt-5-mini", "Well?", url=f"{server.url}/v1")
        gate = "touch began.$COORD_TASK_KEY.$COORD_ATTEMPT; [ $COORD_ATTEMPT != 1 ] || sleep 600"
        jobs = [Task(f"job{number}", {"shell": HANGS}) for number in range(20)]
        chats = [Task(f"chat{number}", chat) for number in range(4)]
        gated = [Task(f"gated{number}", {"shell": "echo done"}, gates=[Gate(gate)]) for number in range(2)]
        for _ in range(2):
            fleet.worker("-c", "14")
        run = fleet.submit(*jobs, *chats, *gated, Task("after", {"shell": "true"}, needs=["job0"]))
        for task in jobs:
            fleet.await_file_made(f"began.{task.key}", within=60)
        for task in gated:
            fleet.await_file_made(f"began.{task.key}.1", within=60)
        until(lambda: len(server.requests) == 4, within=timedelta(seconds=60), what="four calls of a model")

        stopped = stop(fleet, reason="they go round in circles")

        assert_silent(fleet, stopped)
        assert stopped.new
        assert {one.task for one in stopped.attempts} == {task.key for task in (*jobs, *chats, *gated)}
        assert {one.outcome for one in stopped.attempts} == {Outcome.HANDED_BACK}
        before, called = started(fleet), len(server.requests)
        more = fleet.submit(Task("more", {"shell": "true"}))
        until(lambda: more.task("more").state is TaskState.BLOCKED, what="the claim that is refused")
        assert (started(fleet), len(server.requests)) == (before, called)
        assert of_jobs(fleet) == []
        assert "stopped since" in fleet.coord("explain", "more").out

        fleet.co.start()

        assert run.wait(timeout=120) is RunState.COMPLETED, [(one.key, one.state, one.error) for one in run.tasks()]
        assert more.wait(timeout=60) is RunState.COMPLETED
    assert {task.record.failures for task in run.tasks()} == {0}
    assert run.task("job1").output == "by 2"


def test_what_must_not_be_repeated_waits_for_a_person(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    run = fleet.submit(Task("once", {"shell": HANGS}, repeatable=False), Task("again", {"shell": HANGS}))
    for key in ("once", "again"):
        fleet.await_file_made(f"began.{key}")

    stopped = stop(fleet)

    assert_silent(fleet, stopped)
    assert {one.task: one.unknown for one in stopped.attempts} == {"once": True, "again": False}
    fleet.co.start()
    until(lambda: run.task("again").state is TaskState.COMPLETED, within=timedelta(seconds=60), what="the other one")
    once = run.task("once").record
    assert (once.state, once.attempt) == (TaskState.BLOCKED, 1)
    assert BlockReason.OUTCOME_UNKNOWN in once.reasons


def test_now_gives_no_grace(fleet: Fleet) -> None:
    fleet.worker("-c", "1", COORD_CANCEL_GRACE="10m")
    run = fleet.submit(Task("deaf", {"shell": DEAF}))
    fleet.await_file_made("began.deaf")

    first = stop(fleet, timeout=1.0)
    assert not first.silent
    assert "--now" in first.attempts[0].words()
    second = stop(fleet, now=True)

    assert_silent(fleet, second)
    assert (second.new, second.stop.id) == (False, first.stop.id)
    assert [one.task for one in second.attempts] == ["deaf"]
    fleet.co.start()
    assert run.wait(timeout=60) is RunState.COMPLETED


def test_without_redis_the_heartbeat_tells_and_other_projects_go_on(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    run = fleet.submit(Task("job", {"shell": HANGS}))
    (fleet.folder / "other").mkdir()
    reference = ProjectRef(name="other", path=str(fleet.folder / "other"))
    waits = "touch began; while [ ! -e go ]; do sleep 0.05; done"
    other = fleet.co.submit(Plan([Task("lives", {"shell": waits})], project=reference))
    fleet.await_file_made("began.job")
    until((fleet.folder / "other" / "began").exists, within=timedelta(seconds=60), what="the other project's job")
    env = {**fleet.env, "COORD_REDIS_URL": "redis://127.0.0.1:1/0"}
    coord = type(fleet.coord)(fleet.coord.home, fleet.coord.cwd, env)

    output = coord("stop", "--project", "fleet", "--timeout", "60s", "--json")

    result = json.loads(output.out)
    assert result["silent"]
    assert [one["task"] for one in result["attempts"]] == ["job"]
    assert other.task("lives").state is TaskState.RUNNING
    (fleet.folder / "other" / "go").touch()
    assert other.wait(timeout=60) is RunState.COMPLETED
    assert "(stopped)" in coord("projects", "list").out
    assert "coord start --project fleet" in coord("status").out
    assert "stopped" in coord("doctor", code=None).out
    fleet.co.start("fleet")
    assert run.wait(timeout=60) is RunState.COMPLETED


def test_without_a_stack_it_says_what_is_left_and_a_run_is_told(fleet: Fleet) -> None:
    submitted = fleet.submit(Task("job", {"shell": "true"}))

    stopped = fleet.coord("stop", "--reason", "for the night")

    assert "Nothing is running; 0 attempts were in flight. Continue with: coord start" in stopped.out
    again = fleet.coord("stop")
    assert "is stopped already since" in again.out
    assert "(for the night)" in again.out
    (fleet.folder / "plan.yaml").write_text("version: 1\ntasks: [{key: a, run: {shell: 'true'}}]\n")
    assert "is stopped since" in fleet.coord("submit", str(fleet.folder / "plan.yaml")).err
    assert "The workspace is started again." in fleet.coord("start").out
    assert "was not stopped" in fleet.coord("start").out
    assert submitted.state is RunState.OPEN


@pytest.mark.expiring
def test_a_killed_and_a_frozen_worker_are_named_and_what_they_left_is_ended(fleet: Fleet) -> None:
    workers = [fleet.worker("-c", "2") for _ in range(2)]
    run = fleet.submit(*[Task(f"job{number}", {"shell": HANGS}) for number in range(4)])
    for number in range(4):
        fleet.await_file_made(f"began.job{number}")
    workers[0].kill()
    fleet.suspend(workers[1])

    first = stop(fleet, timeout=0.5)

    assert not first.silent
    until(lambda: not stop_is_heard(fleet), within=timedelta(seconds=60), what="that both are silent")
    assert all(
        "its worker has sent no heartbeat" in one.words() for one in stop(fleet, timeout=0.5).attempts if not one.ended
    )
    workers[1].signal(signal.SIGCONT)
    fleet.worker("-c", "2")
    last = stop(fleet)
    assert_silent(fleet, last)
    assert {one.task for one in last.attempts} == {f"job{number}" for number in range(4)}
    fleet.co.start()
    assert run.wait(timeout=120) is RunState.COMPLETED


def stop_is_heard(fleet: Fleet) -> bool:
    """Return whether the command reports a worker that has not ended its jobs."""
    return any(not one.silent for one in stop(fleet, timeout=0.0).attempts if not one.ended)


def test_a_storm_of_claims_and_stops(fleet: Fleet) -> None:
    """Check after each stop that no process of a job is alive, and that no attempt begins until the start."""
    for _ in range(2):
        fleet.worker("-c", "4")
    lasts = "sleep 0.$((RANDOM % 5)); echo fine" if Path("/bin/bash").exists() else "sleep 0.2; echo fine"
    runs = [
        fleet.submit(
            *[Task(f"s{number}", {"shell": lasts}) for number in range(60)],
            *[Task(f"p{number}", {"python": "os:getpid"}) for number in range(200)],
        )
    ]
    over = threading.Event()

    def submit_on() -> None:
        while not over.is_set():
            runs.append(fleet.submit(*[Task(f"t{number}", {"shell": "sleep 0.05"}) for number in range(5)]))
            over.wait(0.2)

    submitter = threading.Thread(target=submit_on)
    submitter.start()
    try:
        for _ in range(4):
            before = started(fleet)
            until(lambda before=before: started(fleet) > before, within=timedelta(seconds=60), what="an attempt")
            assert_silent(fleet, stop(fleet))
            seen = started(fleet)
            blocked = "SELECT count(*) FROM events WHERE type = 'blocked'"
            refused = count(fleet, blocked)
            runs.append(fleet.submit(Task("late", {"shell": "true"})))
            until(lambda: count(fleet, blocked) > refused, within=timedelta(seconds=60), what="a refused claim")  # noqa: B023
            assert started(fleet) == seen
            assert of_jobs(fleet) == []
            fleet.co.start()
    finally:
        over.set()
        submitter.join()
    for run in runs:
        assert run.wait(timeout=180) is RunState.COMPLETED
        assert {task.record.failures for task in run.tasks()} == {0}


def count(fleet: Fleet, statement: str) -> int:
    with fleet.co.runtime.store.read() as tx:
        return tx.execute(text(statement)).scalar_one()
