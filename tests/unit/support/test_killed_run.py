"""Test that a killed test run leaves no process and no folder of servers, however it is killed."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Process, Processes, until
from tests.support.reaper import OWNER, SCRATCH, TAG
from tests.support.sources import ROOT

pytestmark = [pytest.mark.full, pytest.mark.timeout(240)]

LONG = timedelta(seconds=90)
SOON = timedelta(seconds=10)

TESTS = """
import os
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.processes import TAG


@pytest.mark.parametrize("number", range(int(os.environ["COUNT"])))
def test_a_worker_works_on(number, tmp_path, postgres_url, redis_url, processes):
    environment = Fleet.environment(postgres_url, redis_url, tmp_path)
    worker = Fleet(processes, environment, tmp_path).worker("--concurrency", "1")
    report = Path(os.environ["REPORTS"], "next")
    report.write_text(f"{os.environ[TAG]} {worker.pid} {tmp_path}")
    report.rename(report.with_name(str(os.getpid())))
    worker.wait()
"""


class Run:
    """A test run in processes of its own, each of which has servers and a worker."""

    def __init__(self, processes: Processes, folder: Path, workers: int) -> None:
        """Start it, and wait until each of its test processes waits for its worker."""
        (folder / "test_long.py").write_text(TESTS)
        reports = folder / "reports"
        reports.mkdir()
        count = max(workers, 1)
        self.process: Process = processes.start(
            *(sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest"),
            *("-n", str(workers), folder / "test_long.py"),
            env={"REPORTS": str(reports), "COUNT": str(count)},
            cwd=ROOT,
        )

        def started() -> bool:
            assert self.process.exit_code is None, self.process.output
            return sum(entry.name.isdigit() for entry in reports.iterdir()) == count

        until(started, within=LONG, what="every test process has its servers")
        self.members = [int(entry.name) for entry in reports.iterdir()]
        output = [entry.read_text().split(" ", 2) for entry in reports.iterdir()]
        self.tags = {tag for tag, _, _ in output}
        self.workers = [int(worker) for _, worker, _ in output]
        self.folders = list(scratch_of(self.members))
        self.tests_folders = [Path(folder) for _, _, folder in output]

    def processes(self) -> list[psutil.Process]:
        """Return its running processes, except the reapers."""
        matches = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(TAG) in self.tags and process.status() != psutil.STATUS_ZOMBIE:
                    matches.append(process)
            except psutil.Error:
                continue
        return matches

    def left(self) -> list[object]:
        """Return what is left of it: processes, and the folders of its servers."""
        alive = [pid for pid in (self.process.pid, *self.members) if not is_zombie(pid)]
        return [*alive, *self.processes(), *(folder for folder in self.folders if folder.exists())]

    def wait_until_gone(self, within: timedelta) -> None:
        """Wait until nothing is left, and name what is when that takes too long."""
        with suppress(AssertionError):
            until(lambda: not self.left(), within=within)
        assert self.left() == []


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def scratch_of(pids: list[int]) -> Iterator[Path]:
    for owner in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{OWNER}"):
        if int(owner.read_text().split()[0]) in pids:
            yield owner.parent


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_killed_leaves_nothing(
    processes: Processes, tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    run = Run(processes, tmp_path, workers)
    assert {process.pid for process in run.processes()} > set(run.workers)
    assert len(run.folders) == 2 * max(workers, 1)  # for each: PostgreSQL's and Redis's

    run.process.signal(number)

    run.wait_until_gone(LONG if number == signal.SIGINT else SOON)  # an interrupted run ends its tests in order
    # After an interruption a user may want the tests' files, so pytest keeps them.
    if number != signal.SIGINT:
        until(lambda: not any(folder.exists() for folder in run.tests_folders), within=SOON, what="the tests' folders")


def test_test_processes_that_are_killed_leave_nothing(processes: Processes, tmp_path: Path) -> None:
    run = Run(processes, tmp_path, 2)

    for member in run.members:
        os.kill(member, signal.SIGKILL)

    run.process.wait(within=LONG)
    run.wait_until_gone(SOON)
