"""Test warm interpreters: which are reused, and when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.processes import until
from workers.runners import orphan_reaper
from workers.runners import pool as pool_module
from workers.runners.interpreter import InterpreterKey
from workers.runners.pool import InterpreterPool
from workers.runners.process import Launcher

KEY = InterpreterKey(None, (), ())


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()
    assert orphan_reaper.find([os.fsencode(launcher.marker)]) == []


def test_the_process_that_was_idle_last_is_given_out_first(launcher: Launcher) -> None:
    pool = InterpreterPool(launcher)
    first, second = pool.take(KEY), pool.take(KEY)
    pool.give_back(first)
    pool.give_back(second)

    interpreters = pool.take(KEY)

    assert interpreters is second
    pool.give_back(interpreters)
    pool.close()


def test_a_process_for_one_key_is_not_given_out_for_another(launcher: Launcher) -> None:
    pool = InterpreterPool(launcher)
    first = pool.take(KEY)
    pool.give_back(first)

    other = pool.take(InterpreterKey(None, ("/elsewhere",), ()))

    assert other is not first
    pool.give_back(other)
    pool.close()


def test_a_process_that_died_while_idle_is_not_given_out(launcher: Launcher) -> None:
    pool = InterpreterPool(launcher)
    first = pool.take(KEY)
    pool.give_back(first)
    os.kill(first.process.record.pid, signal.SIGKILL)
    until(lambda: not first.is_alive())

    second = pool.take(KEY)

    assert second is not first
    pool.give_back(second)
    pool.close()


def test_an_idle_process_that_was_killed_does_not_stay_a_zombie(launcher: Launcher) -> None:
    pool = InterpreterPool(launcher)
    first, second = pool.take(KEY), pool.take(KEY)
    pool.give_back(first)
    pool.give_back(second)

    os.kill(second.process.record.pid, signal.SIGKILL)

    until(lambda: not Path(f"/proc/{second.process.record.pid}").exists(), what="it is reaped")
    assert len(pool._idle) == 1
    assert pool.take(KEY) is first
    first.close()
    pool.close()


@pytest.mark.parametrize("how", ["killed", "grown old"])
def test_the_janitor_sees_a_process_that_became_idle_after_it_had_seen_none(
    launcher: Launcher, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_POLL", 0.02)
    pool = InterpreterPool(launcher, max_idle_age=timedelta(seconds=60 if how == "killed" else 1))
    pool.give_back(pool.take(KEY))
    child = pool.take(KEY)
    time.sleep(0.2)  # the janitor has checked, and found no idle interpreter

    pool.give_back(child)
    if how == "killed":
        os.kill(child.process.record.pid, signal.SIGKILL)

    until(lambda: not Path(f"/proc/{child.process.record.pid}").exists(), what="it is reaped")
    assert len(pool._idle) == 0
    pool.close()


def test_idle_processes_grow_old_and_go(launcher: Launcher) -> None:
    pool = InterpreterPool(launcher, max_idle_age=timedelta(milliseconds=50))
    child = pool.take(KEY)

    pool.give_back(child)

    until(lambda: len(pool._idle) == 0)
    until(lambda: not orphan_reaper.is_running(child.process.record.pid))
    pool.close()


def test_no_more_than_a_few_stay_idle_and_the_oldest_goes(launcher: Launcher) -> None:
    pool = InterpreterPool(launcher, max_idle=1)
    first, second = pool.take(KEY), pool.take(KEY)
    pool.give_back(first)

    pool.give_back(second)

    until(lambda: not orphan_reaper.is_running(first.process.record.pid))
    assert (len(pool._idle), second.is_alive()) == (1, True)
    pool.close()


def test_a_process_is_retired_after_its_share_of_jobs(bench: Bench) -> None:
    bench.runners.pool._max_jobs, bench.runners.pool._min_age = 2, 0.0

    pids = [bench.run({"python": "job_functions:pid"}).output for _ in range(4)]

    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_short_jobs_in_a_hurry_do_not_wear_a_process_out(bench: Bench) -> None:
    bench.runners.pool._max_jobs = 2

    pids = {bench.run({"python": "job_functions:pid"}).output for _ in range(4)}

    assert len(pids) == 1


def test_a_retired_process_runs_its_exit_handlers(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(
        "import atexit, pathlib\ndef f(path):\n    atexit.register(pathlib.Path(path).touch)\n"
    )
    bench.run({"python": "part:f", "args": {"path": str(tmp_path / "ended")}}, workdir=str(tmp_path))

    bench.runners.pool.close()

    assert (tmp_path / "ended").exists()


def test_an_interpreter_that_dies_before_it_takes_a_job_costs_the_job_nothing(bench: Bench) -> None:
    result = bench.run({"python": "job_functions:say", "env": {"PYTHONHOME": "/nowhere"}})

    assert result.outcome in (Outcome.DEFERRED, Outcome.FAILED)
    assert bench.run({"python": "job_functions:say"}).outcome is Outcome.COMPLETED


def test_the_interpreter_starts_without_anything_of_ours() -> None:
    from workers.runners.interpreter import _PROGRAM

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", _PROGRAM, "99", "98", "|", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )

    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "json" in imported
    assert not imported & {"celery", "kombu", "sqlalchemy", "pydantic", "coordination", "workers", "asyncio"}


def test_a_parent_that_was_large_once_makes_no_child_of_it_unfit(bench: Bench) -> None:
    once = bytearray(700 << 20)
    for place in range(0, len(once), 4096):
        once[place] = 1
    del once

    first, second = (bench.run({"python": "job_functions:pid"}).output for _ in range(2))

    assert first == second
