"""Test that waits fit the machine, and that a run does not depend on how it was started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support import speed
from tests.support.processes import Processes
from tests.support.sources import ROOT

TESTS = """
import os, signal, time
import pytest
from tests.support.speed import patience

def test_it_heeds_interrupts():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
pytestmark = pytest.mark.full

LIMITS = """
import pytest

@pytest.mark.timeout(10)
def test_with_a_limit_of_its_own(request):
    print("own", request.node.get_closest_marker("timeout").args[0])

def test_with_the_usual_limit(request):
    print("usual", request.node.get_closest_marker("timeout").args[0])
"""


@pytest.fixture
def slow() -> Iterator[None]:
    """Simulate a machine that takes three times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_PATIENCE_FACTOR", "3")
        speed.factor.cache_clear()
        yield
    speed.factor.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "processes", "expected"),
    [
        (speed.REFERENCE, 1, 1),
        (speed.REFERENCE / 2, 2, 1),
        (speed.REFERENCE * 2, 2, 2),
        (speed.REFERENCE, 4, 2),  # twice as many processes as cores
        (speed.REFERENCE * 2, 4, 4),
        (speed.REFERENCE * 100, 1, speed.SLOWEST),
    ],
)
def test_patience_grows_with_the_time_of_the_machine_and_with_the_processes_that_share_a_core(
    seconds: float, processes: int, expected: float
) -> None:
    assert speed.factor_of(seconds, processes=processes, cores=2) == pytest.approx(expected)


@pytest.mark.usefixtures("slow")
def test_times_of_every_kind_are_scaled() -> None:
    assert speed.patience(2) == 6
    assert speed.patience(timedelta(seconds=2)) == timedelta(seconds=6)


def pytest_on(folder: Path, source: str, *options: str) -> list[str | Path]:
    """Return the command that runs the tests in *source*, as those of this repository are run."""
    (folder / "test_it.py").write_text(source)
    run = (sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest")
    return [*run, *options, folder / "test_it.py"]


def test_limits_of_tests_are_scaled_and_the_head_says_so(processes: Processes, tmp_path: Path) -> None:
    # Eight test processes on each core, whatever the speed: the largest factor.
    cores = len(os.sched_getaffinity(0))
    command = pytest_on(tmp_path, LIMITS, "-s", f"--tx={8 * cores}*popen", "--dist=no")

    run = processes.start(*command, cwd=ROOT)

    assert run.wait() == 0, run.output
    assert "speed: patience x8 " in run.output
    assert "own 80.0" in run.output
    assert "usual 960.0" in run.output


def test_a_run_in_the_background_of_a_plain_shell_heeds_interrupts(processes: Processes, tmp_path: Path) -> None:
    ignoring = ("/bin/sh", "-c", 'trap "" INT QUIT; exec "$@"', "sh")

    run = processes.start(*ignoring, *pytest_on(tmp_path, TESTS), cwd=ROOT)

    assert run.wait() == pytest.ExitCode.INTERRUPTED, run.output
    assert "KeyboardInterrupt" in run.output


def test_loopback_is_not_reached_through_a_proxy_and_other_hosts_are(processes: Processes, tmp_path: Path) -> None:
    source = (
        "from urllib.request import getproxies, proxy_bypass\n\n\n"
        "def test_it():\n"
        "    assert getproxies()['https'] == 'http://127.0.0.1:9'\n"
        "    assert [bool(proxy_bypass(host)) for host in ('127.0.0.1', 'localhost', 'mine.test', 'registry.test')]"
        " == [True, True, True, False]\n"
    )
    behind = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "mine.test", "no_proxy": "mine.test"}

    run = processes.start(*pytest_on(tmp_path, source), cwd=ROOT, env=behind)

    assert run.wait() == 0, run.output
