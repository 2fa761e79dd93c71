"""Test faults of real workers on both stores: killed, stopped, disconnected, Redis flushed, asked to shut down."""

import signal
from datetime import timedelta

import psycopg
import pytest
import redis
from sqlalchemy import make_url, select, text, update

from coordination.domain.plans.plans import Concurrency, Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.settings import load_settings
from coordination.store.queries.fleet.workers import count_live_slots
from coordination.store.queries.money import costs
from coordination.store.tables.fleet.workers import supervisors
from coordination.store.types import db_after
from tests.support.apps import app_of
from tests.support.fleet import Fleet, alive, seconds_until
from tests.support.processes import until
from tests.support.redis import RedisServer
from tests.support.speed import patience

FIRST_HANGS = "echo $$ > pid.$COORD_ATTEMPT; if [ $COORD_ATTEMPT = 1 ]; then sleep 60; fi; echo done by $COORD_ATTEMPT"


class TestAKilledWorker:
    @pytest.mark.expiring
    @pytest.mark.smoke
    def test_its_task_runs_again_and_nothing_of_the_first_attempt_is_left(self, fleet: Fleet) -> None:
        first = fleet.worker()
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}), Task("after", {"shell": "true"}, needs=["job"]))
        job_pid = int(fleet.await_file("pid.1"))
        fleet.worker()

        first.kill()
        gone_after = seconds_until(lambda: not alive(job_pid), within=5, what="the end of the dead worker's job")

        assert run.wait(timeout=20) is RunState.COMPLETED
        task = run.task("job")
        assert task.output == "done by 2"
        assert [attempt.outcome for attempt in task.attempts()] == [Outcome.LOST, Outcome.COMPLETED]
        assert (task.record.losses, task.record.failures) == (1, 0)
        assert gone_after < patience(5)

    def test_a_restart_on_the_same_host_hands_back_at_once_what_it_held(self, fleet: Fleet) -> None:
        long_lease = {"COORD_LEASE_TTL": "10m"}  # so that only the restart can be quick
        first = fleet.worker(**long_lease)
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        fleet.await_file("pid.1")

        first.kill()
        fleet.worker(**long_lease)

        assert run.wait(timeout=20) is RunState.COMPLETED
        assert [attempt.outcome for attempt in run.task("job").attempts()] == [Outcome.LOST, Outcome.COMPLETED]

    @pytest.mark.expiring
    def test_a_job_that_must_not_be_repeated_waits_for_a_person(self, fleet: Fleet) -> None:
        first = fleet.worker()
        run = fleet.submit(Task("pay", {"shell": FIRST_HANGS}, repeatable=False))
        fleet.await_file("pid.1")
        fleet.worker()

        first.kill()
        until(lambda: run.task("pay").state is TaskState.BLOCKED, within=timedelta(seconds=15), what="blocked")
        assert run.task("pay").record.reasons.names() == ["outcome_unknown"]
        run.task("pay").retry()

        assert run.wait(timeout=20) is RunState.COMPLETED


@pytest.mark.expiring
class TestAStaleWorker:
    @pytest.mark.smoke
    def test_its_late_result_is_refused_but_its_money_is_recorded(self, fleet: Fleet) -> None:
        # As on another machine: no other worker finds what its jobs have reported.
        first = fleet.worker(COORD_HOME=str(fleet.folder / "their home"))
        spend = 'echo "{\\"model\\": \\"m\\", \\"cost_usd\\": 0.25}" >> "$COORD_COSTS"'
        wait = "while [ ! -e go.$COORD_ATTEMPT ]; do sleep 0.05; done"
        script = f"touch started.$COORD_ATTEMPT; {spend}; {wait}; echo by $COORD_ATTEMPT"
        run = fleet.submit(Task("job", {"shell": script}))
        until(lambda: fleet.file("started.1").exists(), what="the first attempt")

        fleet.suspend(first)
        fleet.file("go.1").touch()  # the job ends while its worker cannot report the end
        fleet.worker()
        until(lambda: fleet.file("started.2").exists(), what="the second attempt")
        first.signal(signal.SIGCONT)
        workspace = fleet.co.runtime.workspace_id

        def stale_money() -> bool:
            with fleet.co.runtime.store.read() as tx:
                return any(record.stale for record in costs.each(tx, workspace, run_id=run.id))

        until(stale_money, what="the stale attempt's costs")
        assert run.task("job").state is TaskState.RUNNING
        fleet.file("go.2").touch()

        assert run.wait(timeout=20) is RunState.COMPLETED
        assert run.task("job").output == "by 2"
        ends = [event for event in run._events_after("0.0") if event.type is EventType.COMPLETED]
        assert [event.attempt for event in ends] == [2]
        with fleet.co.runtime.store.read() as tx:
            assert [(record.attempt, record.stale) for record in costs.each(tx, workspace, run_id=run.id)] == [
                (1, True),
                (2, False),
            ]

    def test_the_job_of_a_stopped_worker_is_ended_before_its_task_runs_again(self, fleet: Fleet) -> None:
        first = fleet.worker()
        run = fleet.submit(Task("job", {"shell": "setsid sleep 60 & " + FIRST_HANGS}))
        job_pid = int(fleet.await_file("pid.1"))

        fleet.suspend(first)  # it lives, renews nothing, and cannot end its job itself
        fleet.worker()
        fleet.await_file("pid.2")

        assert not alive(job_pid)
        assert run.wait(timeout=20) is RunState.COMPLETED
        first.signal(signal.SIGCONT)

    @pytest.mark.stores("postgres")
    def test_a_worker_cut_off_from_sql_ends_its_jobs_before_its_lease_does(self, fleet: Fleet) -> None:
        fleet.worker()
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        job_pid = int(fleet.await_file("pid.1"))
        url = make_url(fleet.env["COORD_DATABASE_URL"])
        admin_url = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)

        with psycopg.connect(admin_url, autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [url.database])
            cut_off_for = seconds_until(lambda: not alive(job_pid), within=30, what="self-fencing")
            admin.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true')

        lease = fleet.co.runtime.settings.leases().ttl.total_seconds()
        assert cut_off_for < lease + patience(0.5)
        assert run.wait(timeout=30) is RunState.COMPLETED
        assert run.task("job").output == "done by 2"


class TestRedis:
    @pytest.mark.smoke
    def test_a_flush_in_the_middle_loses_nothing(self, fleet: Fleet) -> None:
        fleet.worker("-c", "2")
        run = fleet.submit(*[Task(f"t{number}", {"shell": "sleep 0.1"}) for number in range(40)])
        fleet.await_event(run, EventType.COMPLETED)

        client = redis.Redis.from_url(fleet.env["COORD_REDIS_URL"])
        client.flushall()
        client.close()

        assert run.wait(timeout=60) is RunState.COMPLETED
        assert all(task.record.attempt == 1 for task in run.tasks())

    def test_work_goes_on_by_itself_when_redis_comes_back(self, fleet: Fleet, redis_server: RedisServer) -> None:
        worker = fleet.worker("-c", "2")
        run = fleet.submit(*[Task(f"t{number}", {"shell": "sleep 0.1"}) for number in range(30)])
        fleet.await_event(run, EventType.COMPLETED)

        redis_server.stop(signal.SIGKILL)
        running = len([task for task in run.tasks() if task.state is TaskState.RUNNING])
        redis_server.start()

        assert running <= 2
        assert run.wait(timeout=60) is RunState.COMPLETED
        assert worker.exit_code is None
        assert all(task.record.attempt == 1 for task in run.tasks())

    @pytest.mark.smoke
    def test_forged_and_malformed_messages_are_refused_and_the_worker_lives(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "2")
        with app_of(load_settings(fleet.env)) as app:
            for arguments in ([], ["x", "y"], [1, [[2, 3]]], [{"a": 1}, None], ["0" * 36, [["1" * 36, 1]]]):
                app.send_task("coordination.run", arguments, queue="jobs")
            app.send_task("coordination.unknown", [], queue="jobs")
            app.send_task("coordination.tick", [None, 5], queue="supervise")
        client = redis.Redis.from_url(fleet.env["COORD_REDIS_URL"])
        client.lpush("coord:wakeups", "not json", "[1,2]", '["a"]')
        client.publish("coord:cancels", "garbage")
        client.close()
        run = fleet.submit(Task("job", {"shell": "echo fine"}))

        assert run.wait(timeout=20) is RunState.COMPLETED
        assert worker.exit_code is None


class TestAWorkerTakenForDead:
    """Test a worker that was considered lost (stopped, asleep or cut off) and comes back."""

    @pytest.mark.parametrize("taken", ["UPDATE workers SET stopped_at = heartbeat_at", "DELETE FROM workers"])
    def test_it_is_in_the_fleet_again_with_its_next_heartbeat(self, fleet: Fleet, taken: str) -> None:
        worker = fleet.worker("-c", "3", COORD_LEASE_HEARTBEAT="1s")
        store = fleet.co.runtime.store

        def slots() -> int:
            with store.read() as tx:
                return count_live_slots(tx, within=timedelta(seconds=30))

        assert slots() == 3
        with store.write() as tx:
            assert tx.execute(text(taken)).rowcount == 1
            assert count_live_slots(tx, within=timedelta(seconds=30)) == 0

        until(lambda: slots() == 3, what="it is in the fleet")

        worker.wait_for("considered dead")  # printed when it is written
        assert fleet.submit(Task("job", {"shell": "true"})).wait(timeout=20) is RunState.COMPLETED


class TestATickThatHangs:
    def test_what_is_submitted_meanwhile_starts_all_the_same(self, fleet: Fleet) -> None:
        fleet.worker("-c", "2")
        assert fleet.submit(Task("first", {"shell": "true"})).wait(timeout=20) is RunState.COMPLETED
        with fleet.co.runtime.store.write() as tx:
            statement = update(supervisors).values(tick_owner="somebody", tick_until=db_after(600))
            assert tx.execute(statement).rowcount == 1

        run = fleet.submit(Task("one", {"shell": "true"}), Task("two", {"shell": "true"}, needs=["one"]))

        assert run.wait(timeout=20) is RunState.COMPLETED
        with fleet.co.runtime.store.read() as tx:
            assert tx.execute(select(supervisors.c.tick_owner)).scalar_one() == "somebody"


class TestShuttingDown:
    @pytest.mark.smoke
    def test_a_job_that_outlives_the_grace_is_handed_back_uncharged(self, fleet: Fleet) -> None:
        first = fleet.worker()
        run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
        job_pid = int(fleet.await_file("pid.1"))

        code = first.stop(within=timedelta(seconds=20))
        assert run.task("job").state is TaskState.QUEUED
        assert not alive(job_pid)
        fleet.worker()

        assert code == 0
        assert run.wait(timeout=20) is RunState.COMPLETED
        task = run.task("job")
        assert [attempt.outcome for attempt in task.attempts()] == [Outcome.HANDED_BACK, Outcome.COMPLETED]
        assert (task.record.failures, task.record.losses) == (0, 0)

    def test_a_job_that_ends_within_the_grace_is_completed(self, fleet: Fleet) -> None:
        first = fleet.worker(COORD_SHUTDOWN_GRACE="20s")
        run = fleet.submit(Task("job", {"shell": "touch started; while [ ! -e go ]; do sleep 0.05; done"}))
        until(lambda: fleet.file("started").exists(), what="the job")

        first.signal(signal.SIGTERM)
        first.wait_for("draining")
        fleet.file("go").touch()

        assert first.wait(within=timedelta(seconds=20)) == 0
        assert run.wait(timeout=5) is RunState.COMPLETED


class TestJobs:
    @pytest.mark.smoke
    def test_a_canceled_job_is_gone_within_seconds(self, fleet: Fleet) -> None:
        fleet.worker(COORD_LEASE_HEARTBEAT="1s")
        run = fleet.submit(
            Task("job", {"shell": FIRST_HANGS}),
            Task("after", {"shell": "true"}, needs=["job"]),
        )
        job_pid = int(fleet.await_file("pid.1"))

        assert run.cancel() == 2
        took = seconds_until(lambda: not alive(job_pid), within=5, what="the end of the job")

        assert took < patience(3)
        assert run.state is RunState.CANCELED
        until(lambda: run.task("job").attempts()[-1].outcome is Outcome.CANCELED, what="the attempt's end")

    @pytest.mark.smoke
    def test_time_out_crash_and_retry_never_take_the_worker_along(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "4")
        quick = Backoff(initial=timedelta(milliseconds=100))
        run = fleet.submit(
            Task("slow", {"shell": "sleep 60"}, timeout=timedelta(seconds=1)),
            Task("segfault", {"python": "ctypes:string_at", "args": {"ptr": 0}}),
            Task("exits", {"python": "os:_exit", "args": {"status": 3}}),
            Task("flaky", {"shell": "test $COORD_ATTEMPT -ge 3"}, max_attempts=3, backoff=quick),
            Task("later", {"shell": "test -e asked || { touch asked; exit 75; }"}, backoff=quick),
            Task("fine", {"python": "os.path:basename", "args": {"p": "/a/b"}}),
        )

        assert run.wait(timeout=40) is RunState.FAILED
        states = {task.key: (task.state.value, task.record.attempt, task.record.failures) for task in run.tasks()}
        assert states == {
            "slow": ("failed", 1, 1),
            "segfault": ("failed", 1, 1),
            "exits": ("failed", 1, 1),
            "flaky": ("completed", 3, 2),
            "later": ("completed", 2, 0),
            "fine": ("completed", 1, 0),
        }
        assert run.task("slow").attempts()[0].outcome is Outcome.TIMED_OUT
        assert run.task("fine").output == "b"
        assert worker.exit_code is None

    @pytest.mark.smoke
    def test_limits_hold_over_two_workers(self, fleet: Fleet) -> None:
        fleet.worker("-c", "4")
        fleet.worker("-c", "4")
        guarded = "mkdir lock.$COORD_TASK_KEY_GROUP && sleep 0.15 && rmdir lock.$COORD_TASK_KEY_GROUP"
        tasks = [
            Task(f"d{number}", {"shell": guarded, "env": {"COORD_TASK_KEY_GROUP": "deploy"}}, concurrency_key="deploy")
            for number in range(8)
        ]
        run = fleet.submit(*tasks, concurrency=Concurrency(project=3))

        assert run.wait(timeout=60) is RunState.COMPLETED

    def test_a_parked_message_costs_seconds_not_the_length_of_the_job_before_it(self, fleet: Fleet) -> None:
        fleet.worker("-c", "1")
        hold = fleet.submit(*[Task(f"long{number}", {"shell": "sleep 60"}) for number in range(1)])
        fleet.await_event(hold, EventType.STARTED)
        run = fleet.submit(*[Task(f"t{number}", {"shell": "true"}) for number in range(3)])
        fleet.worker("-c", "2")

        assert run.wait(timeout=20) is RunState.COMPLETED
        hold.cancel()


class TestCelery:
    def test_plain_celery_commands_work_on_the_prefork_pool_with_beat(self, fleet: Fleet) -> None:
        worker = fleet.processes.start_python(
            *("-m", "celery", "-A", "workers.app", "worker", "-P", "processes", "-c", "2", "-n", "pre@%h"),
            env=fleet.env,
        )
        beat = fleet.processes.start_python(
            *("-m", "celery", "-A", "workers.app", "beat", "--schedule", fleet.folder / "beat"),
            env=fleet.env,
        )
        run = fleet.submit(
            Task("a", {"shell": "echo a"}),
            Task("b", {"python": "os:getpid"}, needs=["a"]),
        )

        assert run.wait(timeout=40) is RunState.COMPLETED
        assert isinstance(run.task("b").output, int)
        assert worker.stop(within=timedelta(seconds=30)) == 0
        assert beat.stop(within=timedelta(seconds=10)) == 0


class TestWhatMustNotOverlapOrRepeat:
    def test_a_retry_waits_until_the_canceled_attempt_is_really_over(self, fleet: Fleet) -> None:
        fleet.worker("-c", "2", COORD_CANCEL_GRACE="3s")
        stubborn = 'trap "" TERM; echo $$ > pid.$COORD_ATTEMPT; for i in $(seq 40); do sleep 0.1; done; echo ended'
        run = fleet.submit(Task("job", {"shell": f"if [ $COORD_ATTEMPT = 1 ]; then {stubborn}; fi"}))
        first = int(fleet.await_file("pid.1"))

        run.task("job").cancel()
        run.task("job").retry()

        assert run.wait(timeout=30) is RunState.COMPLETED
        before, after = run.task("job").attempts()
        assert before.outcome is Outcome.CANCELED
        assert before.finished_at is not None
        assert before.finished_at <= after.started_at
        assert not alive(first)

    def test_a_job_that_must_not_be_repeated_is_not_after_a_shutdown_in_its_middle(self, fleet: Fleet) -> None:
        worker = fleet.worker()
        run = fleet.submit(Task("pay", {"shell": FIRST_HANGS}, repeatable=False))
        fleet.await_file("pid.1")

        worker.stop(within=timedelta(seconds=20))

        assert run.task("pay").state is TaskState.BLOCKED
        assert run.task("pay").record.reasons.names() == ["outcome_unknown"]
