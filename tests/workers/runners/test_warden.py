"""Test that no job outlives its worker, however the worker ends. Real workers, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import until
from tests.support.speed import patience
from tests.support.strict import needs_bubblewrap
from workers.runners import orphan_reaper
from workers.runners.process import Warden

ROOT = Path(__file__).parents[3]


def pid_of(warden: Warden) -> int | None:
    process = warden.process
    return None if process is None else process.pid


@pytest.fixture(params=[(), ("strict",)], ids=["open", "strict"])
def worker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], bytes, int]]:
    if request.param:
        needs_bubblewrap()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.jobs_of_worker", str(tmp_path / "scratch"), *request.param],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    marker, warden = process.stdout.readline().split()
    yield process, os.fsencode(marker), int(warden)
    process.kill()
    process.wait()
    process.stdout.close()
    orphan_reaper.kill_all([os.fsencode(marker), orphan_reaper.worker_tag(marker)])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_leaves_no_job_behind(worker: tuple[subprocess.Popen[str], bytes, int], number: int) -> None:
    process, marker, warden = worker
    marked, tag = set(orphan_reaper.find([marker])), orphan_reaper.worker_tag(os.fsdecode(marker))
    assert len(marked) >= 6
    assert set(orphan_reaper.find([marker, tag])) - marked  # processes that have cleared their environment

    os.killpg(process.pid, number)

    process.wait()
    until(lambda: not orphan_reaper.find([marker, tag]), what="every job ended")
    until(lambda: not orphan_reaper.is_running(warden), what="the warden ended")


def test_a_warden_that_died_is_replaced_and_knows_what_runs(
    worker: tuple[subprocess.Popen[str], bytes, int],
) -> None:
    process, marker, warden = worker

    os.kill(warden, signal.SIGKILL)

    def successors() -> list[int]:
        # Its parent is the worker, and only it has no marker.
        return [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))  # noqa: PTH208
            if pid != warden and _parent(pid) == process.pid and b"runners.warden" in _command(pid)
        ]

    until(successors, what="the next warden")
    process.kill()
    process.wait()
    until(lambda: not orphan_reaper.find([marker]), what="every job ended")


def test_a_group_is_killed_by_its_number_even_without_a_marker() -> None:
    warden = Warden("NOBODY_HAS=this")
    warden.start()
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
    warden.register(sleeper.pid, orphan_reaper.start_time(sleeper.pid) or 0)

    warden.close()

    assert sleeper.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("how", ["forgotten", "another process by now"])
def test_a_group_that_is_over_is_left_alone(how: str) -> None:
    warden = Warden("NOBODY_HAS=this")
    warden.start()
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    started = orphan_reaper.start_time(sleeper.pid) or 0
    warden.register(sleeper.pid, started if how == "forgotten" else started - 1)
    if how == "forgotten":
        warden.forget(sleeper.pid)

    warden.close()

    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.wait()


def test_everything_may_be_said_twice() -> None:
    warden = Warden("NOBODY_HAS=this")
    warden.start()
    warden.start()
    warden.register(4_000_000, 1)
    warden.register(4_000_000, 1)
    warden.forget(4_000_000)
    warden.forget(4_000_000)

    warden.close()
    warden.close()

    assert pid_of(warden) is None


def test_a_warden_that_stands_still_does_not_hold_up_its_worker() -> None:
    warden = Warden("NOBODY_HAS=this")
    warden.start()
    first = pid_of(warden)
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    began = time.monotonic()

    for _ in range(6000):
        warden.register(4_000_000, 1)
        warden.forget(4_000_000)

    assert time.monotonic() - began < patience(10)
    until(lambda: pid_of(warden) not in (None, first), what="the next warden")
    warden.close()


def test_the_next_warden_is_told_of_groups_that_run_already() -> None:
    warden = Warden("NOBODY_HAS=this")
    warden.start()
    first = pid_of(warden)
    assert first is not None
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
    warden.register(sleeper.pid, orphan_reaper.start_time(sleeper.pid) or 0)
    os.kill(first, signal.SIGKILL)
    until(lambda: pid_of(warden) not in (None, first), what="the next warden")

    warden.close()

    try:
        assert sleeper.wait(10) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()


def _parent(pid: int) -> int | None:
    fields = orphan_reaper.stat(pid)
    return int(fields[1]) if fields else None


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
