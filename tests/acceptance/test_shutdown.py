"""Test the shutdown of workers on every pool: they drain, hand back uncharged, leave no process, can be hurried."""

import json
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from tests.support.command import coord_in
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Process, Processes, until
from tests.support.redis import RedisServer
from workers.broker import queues

pytestmark = pytest.mark.stores("sqlite")

POOLS = {"threads": ("-c", "2"), "solo": ("-P", "solo"), "prefork": ("-P", "prefork", "-c", "2")}
LONG_GRACE = {"COORD_SHUTDOWN_GRACE": "10m"}
GONE = timedelta(seconds=30)

# The first attempt never ends, and has a child that has left its process group; later ones end at once.
FIRST_HANGS = (
    "if [ $COORD_ATTEMPT = 1 ]; then setsid sleep 600 & touch began; while :; do sleep 600; done; fi; "
    "echo done by $COORD_ATTEMPT"
)
WAITS = "touch began; while [ ! -e go ]; do sleep 0.05; done; echo done by $COORD_ATTEMPT"


def processes_of(task_id: str) -> list[int]:
    """Return living processes, however detached, that carry the marker of one of the task's attempts."""
    marker = f"\0COORD_ATTEMPT_ID={task_id}".encode()
    processes = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = b"\0" + (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue  # it has just ended
            if marker in environment and state not in {"Z", "X"}:
                processes.append(int(folder.name))
    return processes


def began(fleet: Fleet) -> None:
    """Return None once the job is running."""
    until(fleet.file("began").exists, what="the job's beginning")


def assert_handed_back(fleet: Fleet, run, *, key: str = "job") -> None:
    """Check that the task waits again unchanged, and that nothing of its attempt is left."""
    task = run.task(key)
    assert task.state is TaskState.QUEUED
    assert (task.record.attempt, task.record.failures, task.record.losses) == (1, 0, 0)
    assert [attempt.outcome for attempt in task.attempts()] == [Outcome.HANDED_BACK]
    assert processes_of(task.id) == []
    with fleet.co.runtime.store.read() as tx:
        assert tx.execute(text("SELECT count(*) FROM workers WHERE stopped_at IS NULL")).scalar_one() == 0


def workers_of(fleet: Fleet, task_id: str) -> tuple[str, ...]:
    """Return the workers that had the task."""
    with fleet.co.runtime.store.read() as tx:
        rows = tx.execute(text("SELECT worker_id FROM attempts WHERE task_id = :id ORDER BY number"), {"id": task_id})
        return tuple(rows.scalars())


@pytest.mark.parametrize("pool", POOLS)
class TestOnEveryPool:
    @pytest.mark.stores("postgres")
    def test_what_outlives_the_grace_is_handed_back_uncharged_and_its_processes_are_gone(
        self, fleet: Fleet, pool: str
    ) -> None:
        worker = fleet.worker(*POOLS[pool])
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        began(fleet)
        assert len(processes_of(run.task("job").id)) >= 2

        code = worker.stop(within=GONE)

        assert code == 0
        assert_handed_back(fleet, run)
        fleet.worker(*POOLS[pool])
        assert run.wait(timeout=30) is RunState.COMPLETED
        assert run.task("job").output == "done by 2"

    def test_what_ends_within_the_grace_is_completed(self, fleet: Fleet, pool: str) -> None:
        worker = fleet.worker(*POOLS[pool], **LONG_GRACE)
        run = fleet.submit(Task("job", {"shell": WAITS}), Task("after", {"shell": "true"}, needs=["job"]))
        began(fleet)

        worker.signal(signal.SIGTERM)
        worker.wait_for("draining")
        fleet.file("go").touch()

        assert worker.wait(within=GONE) == 0
        assert run.task("job").output == "done by 1"
        assert run.task("after").state is TaskState.QUEUED

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_hurries(self, fleet: Fleet, pool: str, number: signal.Signals) -> None:
        worker = fleet.worker(*POOLS[pool], **LONG_GRACE)
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        began(fleet)

        worker.signal(number)
        worker.wait_for("draining")
        assert run.task("job").state is TaskState.RUNNING
        worker.signal(number)

        assert worker.wait(within=GONE) == 0
        assert_handed_back(fleet, run)

    def test_a_job_hears_an_interrupt_whoever_started_its_worker(self, fleet: Fleet, pool: str) -> None:
        in_the_background = ("/bin/sh", "-c", 'trap "" INT QUIT; exec "$@"', "sh")
        command = (*in_the_background, sys.executable, "-m", "workers", *POOLS[pool])
        fleet.processes.start(*command, env=fleet.env, announces=True).wait_until_ready()

        run = fleet.submit(*[Task(name, {"shell": f"kill -{name} $$; echo deaf"}) for name in ("INT", "QUIT")])

        assert run.wait(timeout=30) is RunState.FAILED
        codes = [run.task(name).attempts()[0].exit_code for name in ("INT", "QUIT")]
        assert codes == [-signal.SIGINT, -signal.SIGQUIT]

    def test_sigquit_hands_back_at_once(self, fleet: Fleet, pool: str) -> None:
        worker = fleet.worker(*POOLS[pool], **LONG_GRACE)
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        began(fleet)

        worker.signal(signal.SIGQUIT)

        assert worker.wait(within=GONE) == 0
        assert_handed_back(fleet, run)

    def test_a_process_that_runs_jobs_is_registered_once(self, fleet: Fleet, pool: str) -> None:
        fleet.worker(*POOLS[pool])
        expected = 2 if pool == "prefork" else 1

        # Celery calls a worker ready when it has forked; a child registers itself a moment later.
        until(lambda: len(set(registered(fleet))) == expected, what="a row for each process")

        assert len(registered(fleet)) == expected
        until(lambda: all(clocks(fleet)), what="each has said what its clock says")


def clocks(fleet: Fleet) -> list[str | None]:
    """Return the time of each worker's own clock at its last heartbeat."""
    with fleet.co.runtime.store.read() as tx:
        return list(tx.execute(text("SELECT clock_at FROM workers")).scalars())


def registered(fleet: Fleet) -> list[int]:
    """Return the pid of each row of ``workers``."""
    with fleet.co.runtime.store.read() as tx:
        return list(tx.execute(text("SELECT pid FROM workers")).scalars())


def test_a_job_that_a_free_slot_took_from_the_store_may_finish_too(fleet: Fleet) -> None:
    """Let a job finish whose message is lost: Celery's pool does not know of it and ends while it runs."""
    helper = fleet.worker("-c", "1")
    hold = fleet.submit(Task("hold", {"shell": "sleep 600"}))
    fleet.await_event(hold, EventType.STARTED)
    run = fleet.submit(*[Task(f"job{number}", {"shell": WAITS}) for number in range(3)])

    def enqueued() -> int:
        with fleet.co.runtime.store.read() as tx:
            result = text("SELECT count(*) FROM tasks WHERE enqueued_at IS NOT NULL AND state = 'queued'")
            return tx.execute(result).scalar_one()

    until(lambda: enqueued() == 3, what="their doorbells")
    helper.kill()
    hold.cancel()
    redis.Redis.from_url(fleet.env["COORD_REDIS_URL"]).delete(queues.PREFIX + queues.JOBS)
    worker = fleet.worker("-c", "4", **LONG_GRACE)
    began(fleet)

    worker.signal(signal.SIGTERM)
    worker.wait_for("draining")
    time.sleep(1)  # by now everything else of the worker has ended
    fleet.file("go").touch()

    assert worker.wait(within=GONE) == 0
    outcomes = [attempt.outcome for task in run.tasks() for attempt in task.attempts()]
    assert set(outcomes) == {Outcome.COMPLETED}


class TestDraining:
    def test_a_worker_that_drains_takes_nothing_and_leaves_it_to_others(self, fleet: Fleet) -> None:
        going = fleet.worker(**LONG_GRACE)
        running = fleet.submit(Task("job", {"shell": WAITS}))
        began(fleet)
        going.signal(signal.SIGTERM)
        going.wait_for("draining")

        run = fleet.submit(*[Task(f"t{number}", {"shell": "true"}) for number in range(4)])
        fleet.worker("-c", "2")

        assert run.wait(timeout=30) is RunState.COMPLETED
        by = {workers_of(fleet, task.id) for task in run.tasks()}
        assert len(by) == 1
        assert by != {workers_of(fleet, running.task("job").id)}
        fleet.file("go").touch()
        assert running.wait(timeout=20) is RunState.COMPLETED
        assert going.wait(within=GONE) == 0

    def test_a_job_in_python_is_handed_back_as_well(self, fleet: Fleet) -> None:
        worker = fleet.worker()
        started = ["sh", "-c", "touch began; sleep 600"]
        run = fleet.submit(Task("job", {"python": "subprocess:check_call", "args": {"args": started}}))
        began(fleet)
        assert processes_of(run.task("job").id)

        assert worker.stop(within=GONE) == 0

        assert_handed_back(fleet, run)

    def test_celerys_own_shutdown_command_drains_too(self, fleet: Fleet) -> None:
        worker = fleet.worker()
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        began(fleet)

        fleet.processes.start_python("-m", "celery", "-A", "workers.app", "control", "shutdown", env=fleet.env)

        assert worker.wait(within=GONE) == 0
        assert_handed_back(fleet, run)

    def test_a_worker_with_beat_inside_drains_too(self, fleet: Fleet) -> None:
        worker = fleet.worker("-B", "--schedule", str(fleet.folder / "beat"))  # Celery forks beat from the worker
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        began(fleet)

        assert worker.stop(within=GONE) == 0

        assert_handed_back(fleet, run)

    def test_a_worker_goes_although_redis_does_not_answer(self, fleet: Fleet, redis_server: RedisServer) -> None:
        worker = fleet.worker()
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        began(fleet)

        assert redis_server.process is not None
        redis_server.process.send_signal(signal.SIGSTOP)
        try:
            code = worker.stop(within=timedelta(seconds=60))
        finally:
            redis_server.process.send_signal(signal.SIGCONT)

        assert code == 0
        assert_handed_back(fleet, run)


@pytest.mark.stores("sqlite", "postgres")
class TestRollingRestarts:
    def test_five_during_a_plan_lose_nothing_and_charge_nothing(
        self, processes: Processes, store_url: str, redis_url: str, tmp_path: Path
    ) -> None:
        with fleet_on(processes, store_url, redis_url, tmp_path) as fleet:
            workers: list[Process] = [fleet.worker("-c", "2"), fleet.worker("-c", "2")]
            tasks = [Task(f"t{number}", {"shell": "sleep 0.3; echo $COORD_TASK_KEY"}) for number in range(60)]
            # Longer than any grace the first time: handed back by a restart, however long the workers take to start.
            hangs = {"shell": "test $COORD_ATTEMPT -ge 2 || sleep 600"}
            long = [Task(f"long{number}", hangs) for number in range(4)]
            last = Task("last", {"shell": "true"}, needs=[task.key for task in [*tasks, *long]])
            run = fleet.submit(*long, *tasks, last)

            for _ in range(5):
                for place, worker in enumerate(workers):
                    assert worker.stop(within=GONE) == 0
                    workers[place] = fleet.worker("-c", "2")

            assert run.wait(timeout=90) is RunState.COMPLETED
            assert {(task.record.failures, task.record.losses) for task in run.tasks()} == {(0, 0)}
            for task in run.tasks():
                *before, end = [attempt.outcome for attempt in task.attempts()]
                assert end is Outcome.COMPLETED
                assert set(before) <= {Outcome.HANDED_BACK}
            assert any(task.record.attempt > 1 for task in run.tasks())


class TestTheEmbeddedStack:
    @pytest.mark.full
    def test_down_hands_back_what_outlives_the_grace_and_up_goes_on_with_it(self, tmp_path: Path) -> None:
        coord = coord_in(tmp_path, COORD_SHUTDOWN_GRACE="500ms", COORD_CANCEL_GRACE="1s")
        plan = coord.cwd / "plan.yaml"
        job = {"key": "job", "run": {"shell": FIRST_HANGS}}
        plan.write_text(json.dumps({"version": 1, "project": {"path": str(coord.cwd)}, "tasks": [job]}))
        coord.process("up", "--detach")
        try:
            run = coord("submit", plan, "--json").json["run"]
            until((coord.cwd / "began").exists, what="the job's beginning")
            task = coord("runs", "show", run, "--json").json["tasks"][0]["id"]
            assert processes_of(task)

            coord.process("down")

            shown = coord("tasks", "show", task, "--json").json
            assert processes_of(task) == []
            assert (shown["state"], shown["failures"], shown["losses"]) == ("queued", 0, 0)
            coord.process("up", "--detach")
            coord.process("resume", run)
        finally:
            coord.process("down")
        tried = coord("tasks", "show", task, "--json").json["attempts"]
        assert [attempt["outcome"] for attempt in tried] == ["handed_back", "completed"]
