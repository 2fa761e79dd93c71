"""Test stacks of other processes: found, started in the background, stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from coordination.base.clock import utc_now
from coordination.base.errors import Conflict, Unavailable
from coordination.settings import client_url
from coordination.stack import running, stack
from coordination.stack.home import Home, RunningStack
from coordination.stack.processes import ServiceRecord
from tests.support.processes import Processes, until
from tests.support.refusals import refuses
from tests.support.stacks import OWNER, owner_environment, settings_in, stand_in


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", owner_environment(home)["PYTHONPATH"])


def owner(how: str = "obeys") -> list[str]:
    return [sys.executable, OWNER, how]


class TestFind:
    def test_there_is_none_where_there_was_never_one(self, home: Path) -> None:
        assert running.find(settings_in(home)) is None
        assert not home.exists()

    def test_another_process_can_use_it(self, home: Path, processes: Processes) -> None:
        process = processes.start(*owner(), env=owner_environment(home), announces=True).wait_until_ready()

        running_stack = running.find(settings_in(home))

        assert running_stack is not None
        assert running_stack.owner.pid == process.pid
        with redis.Redis.from_url(client_url(running_stack.redis_url)) as client:
            assert client.ping()

    def test_it_waits_for_one_that_comes_up(self, home: Path, processes: Processes) -> None:
        processes.start(*owner(), env=owner_environment(home))
        until(Home(home).is_owned)

        running_stack = running.find(settings_in(home))

        assert running_stack is not None
        assert running_stack.ready

    def test_what_a_killed_owner_left_is_none(self, home: Path, processes: Processes) -> None:
        process = processes.start(*owner(), env=owner_environment(home), announces=True).wait_until_ready()
        process.kill()

        assert running.find(settings_in(home)) is None

    def test_one_on_another_database_is_no_use(self, home: Path) -> None:
        with stack.start(settings_in(home), with_beat=False, worker_argv=stand_in()):
            other = settings_in(home, database_url="postgresql://ada:secret@db/x")

            with refuses(Conflict):
                running.find(other)

    def test_one_on_another_redis_is_no_use(self, home: Path) -> None:
        with (
            stack.start(settings_in(home), with_beat=False, worker_argv=stand_in()),
            refuses(Conflict),
        ):
            running.find(settings_in(home, redis_url="redis://elsewhere"))


class TestDown:
    def test_nothing_to_stop(self, home: Path) -> None:
        assert running.down(home) is False
        assert not home.exists()

    def test_it_ends_what_a_killed_owner_left(
        self, home: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stack, "_BRIEF", timedelta(seconds=0.2))
        process = processes.start(*owner("stubborn"), env=owner_environment(home), announces=True).wait_until_ready()
        record = Home(home).read()
        assert record is not None
        process.kill()
        deaths: list[int] = []

        running.down(home, on_worker_death=deaths.append)

        assert not any(one.alive() for one in record.services.values())
        assert deaths == [record.services["worker"].pid]
        assert not (home / "stack.json").exists()

    def test_two_that_stop_it_at_once_signal_it_once(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Signal it once: a second signal would kill its jobs."""
        home_ = Home(home).prepare()
        lock = home_.acquire()
        owner = ServiceRecord.of(os.getpid())
        record = RunningStack(owner, utc_now(), "", "redis://x", "sqlite://", ready=True)
        home_.write(record)
        second = threading.Thread(target=running.down, args=(home,))
        signals: list[int] = []
        twice = threading.Event()

        def kill(_pid: int, number: int) -> None:
            signals.append(number)
            if len(signals) > 1:
                twice.set()
                return
            second.start()
            twice.wait(0.5)
            home_.write(replace(record, ready=False, stopping=True))
            threading.Timer(0.2, os.close, [lock]).start()

        monkeypatch.setattr("coordination.stack.running.os.kill", kill)

        running.down(home)

        second.join(timeout=60)
        assert signals == [signal.SIGTERM]

    @pytest.mark.full
    def test_an_owner_that_does_not_end_in_time_is_named(
        self, home: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stack, "_BRIEF", timedelta(seconds=0.2))
        process = processes.start(*owner("stubborn"), env=owner_environment(home), announces=True).wait_until_ready()

        with refuses(Unavailable) as refused:
            running.down(home, patience=timedelta(seconds=0.1))
        assert f"{process.pid} " in refused.value.sentence()
        process.kill()
        running.down(home)
