"""Test that a Python job which outlives its worker and its warden is ended before its task runs again."""

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet, alive, fleet_on
from tests.support.processes import Process, Processes, until

JOBS = """
import os, time

def job():
    attempt = os.environ["COORD_ATTEMPT"]
    with open(f"pid.{attempt}", "w") as file:
        file.write(str(os.getpid()))
    if attempt == "1":
        time.sleep(60)
    return attempt
"""


@pytest.fixture
def fleet(processes: Processes, sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Provide a fleet in a project that has the job."""
    with fleet_on(processes, sqlite_url, redis_url, tmp_path, expiring=True) as created:
        (tmp_path / "project" / "outliving.py").write_text(JOBS)
        yield created


def _killed_with_its_warden(worker: Process) -> None:
    worker.signal(signal.SIGSTOP)  # otherwise it starts another warden in between
    wardens = [child for child in psutil.Process(worker.pid).children() if "warden" in " ".join(child.cmdline())]
    assert wardens
    for warden in wardens:
        warden.kill()
    worker.kill()


def _stopped(worker: Process) -> None:
    worker.signal(signal.SIGSTOP)


@pytest.mark.parametrize(("accident", "anew"), [(_killed_with_its_warden, False), (_stopped, True)])
def test_it_is_ended_before_its_task_runs_again(
    fleet: Fleet,
    accident: Callable[[Process], None],
    anew: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    first = fleet.worker()
    run = fleet.submit(Task("job", {"python": "outliving:job"}))
    orphan = int(fleet.await_file("pid.1"))
    if anew:
        fleet.worker()

    accident(first)
    assert alive(orphan)
    if not anew:
        fleet.worker()
    until(lambda: fleet.file("pid.2").exists(), within=timedelta(seconds=30), what="the second attempt")

    assert not alive(orphan)
    assert run.wait(timeout=20) is RunState.COMPLETED
    assert [attempt.outcome for attempt in run.task("job").attempts()] == [Outcome.LOST, Outcome.COMPLETED]
    if anew:
        first.signal(signal.SIGCONT)
