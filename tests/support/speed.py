"""Measures the speed of this machine once for each test run, so that waits fit slow and busy machines too.

Only waits are scaled: how long a test waits for what should happen. What a test asserts about the product's own time
limits is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from functools import cache
from typing import TypeVar

import pytest

Time = TypeVar("Time", float, timedelta)

REFERENCE = 0.14
"""Seconds that `measure` takes on the reference: one idle core of a server of 2024, with Python 3.11."""

SLOWEST = 8.0
"""The largest factor: beyond it, a test that fails late says no more than one that fails in time."""

_VARIABLE = "PYTEST_PATIENCE_FACTOR"
_STEPS = 1_000_000


def measure() -> float:
    """Return the seconds that a fixed amount of Python and the start of one process take now, including waits."""
    began = time.perf_counter()
    total = 0
    for number in range(_STEPS):
        total += number * number % 7
    subprocess.run([sys.executable, "-S", "-c", "import json, subprocess"], check=True)
    return time.perf_counter() - began


def factor_of(seconds: float, *, processes: int, cores: int) -> float:
    """Return the factor for a machine where `measure` took *seconds* and so many test *processes* share its *cores*."""
    return min(SLOWEST, max(1.0, seconds / REFERENCE) * max(1.0, processes / cores))


@cache
def factor() -> float:
    """Return the factor for waits: at least 1, measured by the process that started this run."""
    return float(os.environ.get(_VARIABLE, "1"))


def patience(base: Time) -> Time:
    """Return how long to wait on this machine for what takes no longer than *base* on the reference machine."""
    return base * factor()


def calibrate(config: pytest.Config) -> None:
    """Measure, unless this process was started by one that did, and scale the waits of clients in this process."""
    if _VARIABLE not in os.environ or not hasattr(config, "workerinput"):
        result = factor_of(measure(), processes=_processes_of(config), cores=len(os.sched_getaffinity(0)))
        os.environ[_VARIABLE] = f"{result:.1f}"
        factor.cache_clear()
    if factor() > 1:
        _let_clients_wait()


def _processes_of(config: pytest.Config) -> int:
    """Return how many test processes share the machine, by pytest-xdist's option: ``popen``, ``3*popen``."""
    requested = getattr(config.option, "tx", None) or ["popen"]
    return sum(int(times) if (times := one.partition("*")[0]).isdigit() else 1 for one in requested)


def describe() -> str:
    """Return the line about the speed for the head of a run's output."""
    return f"speed: patience x{factor():g} (x1: an idle core of the reference machine)"


def scale_timeouts(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Scale each test's time limit by the machine's factor, unless the command line sets it."""
    if factor() == 1 or config.getoption("timeout", None) is not None or "PYTEST_TIMEOUT" in os.environ:
        return
    usual = float(config.getini("timeout") or 0)
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit = usual if marker is None else float(marker.args[0] if marker.args else marker.kwargs["timeout"])
        if limit > 0:
            item.add_marker(pytest.mark.timeout(patience(limit)), append=False)


def _let_clients_wait() -> None:
    """Scale the time-outs of tests' waits for runs; those of the product's other processes stay."""
    from coordination.api.runs import Run

    wait = Run.wait

    def wait_longer(run: Run, timeout: float | None = None) -> object:
        return wait(run, None if timeout is None else patience(timeout))

    Run.wait = wait_longer  # type: ignore[method-assign, assignment]
