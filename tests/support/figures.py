"""Prints the cost of a test run: CPU seconds of all its processes, and as a multiple of a calibration loop's.

Wall time depends on the machine's load; the ratio of the two CPU times depends on it much less.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import psutil
import pytest

_STEPS = 1_000_000
_servers = 0.0
"""CPU seconds of database servers that have ended; they detach themselves, so no parent accounts for them."""


def count_server(pid: int) -> None:
    """Add the CPU time of the server *pid* and of its ended children; called before it is stopped."""
    global _servers  # noqa: PLW0603 - one sum for each process
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return
    _servers += times.user + times.system + times.children_user + times.children_system


def calibration_seconds() -> float:
    """Return the CPU seconds that a fixed loop of Python takes on this machine: the best of three."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        total = 0
        for number in range(_STEPS):
            total += number * number % 7
        best = min(best, time.process_time() - began)
    return best


class Figures:
    """A pytest plugin: each test process reports its CPU time, and the run's last process prints the sum."""

    def __init__(self) -> None:
        self._workers: list[float] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send this process's CPU time to the process that prints the sum."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["cpu_seconds"] = _cpu_seconds()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the CPU time of a test process that has ended."""
        self._workers.append(getattr(node, "workeroutput", {}).get("cpu_seconds", 0.0))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the run's CPU time, and how many calibration loops that is."""
        spent = sum(self._workers) or _cpu_seconds()  # xdist's own process does not start the processes of the others
        loop = calibration_seconds()
        terminalreporter.write_line(
            f"CPU: {spent:.0f} s in {max(1, len(self._workers))} test processes and what they started; "
            f"the calibration loop takes {loop:.3f} s, so {spent / loop:,.0f} loops"
        )


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + _servers
