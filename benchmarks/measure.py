"""Medians and spreads, sides that take turns, processes measured from outside: seconds, CPU, peak memory."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Series:
    """What several rounds gave, in one unit."""

    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        """The middle."""
        return statistics.median(self.values)

    @property
    def shown(self) -> str:
        """The median, and how far the rounds lie apart."""
        unit = self.unit if self.unit == "x" else f" {self.unit}"
        low, high = min(self.values), max(self.values)
        return f"{number(self.median)}{unit} ({number(low)} to {number(high)})"


def series(values: Sequence[float], unit: str) -> Series:
    """*values* as measured."""
    return Series(tuple(values), unit)


def in_turns(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What every side gave, round by round, so that a slow minute of the machine meets all of them.

    Each round begins with another side, so that none always comes after the same one.
    """
    found: dict[str, list[float]] = {side: [] for side in sides}
    order = list(sides)
    for turn in range(rounds):
        first = turn % len(order)
        for side in order[first:] + order[:first]:
            found[side].append(sides[side]())
    return found


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Series:
    """Ours beside theirs, round by round: how often theirs goes into ours."""
    return series([mine / other for mine, other in zip(ours, theirs, strict=True)], "x")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of *values* that at least *share* (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and all that it has started so far, those that ended and were waited for included."""
    total = 0.0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for one in family:
        try:
            used = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def own_cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of what it runs of ours (the warden, interpreters), without its jobs' programs."""
    root = psutil.Process(pid)
    ours = [one for one in root.children() if any("workers" in part for part in _command_of(one))]
    return sum(used.user + used.system for used in (one.cpu_times() for one in (root, *ours)))


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def number(value: float) -> str:
    """Three figures."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    seconds: float
    peak_mb: float
    output: str


def run(argv: Sequence[str], env: Mapping[str, str], *, cwd: str | None = None) -> Ran:
    """Run a command to its end; its time and the most memory that it held."""
    began = time.perf_counter()
    process = subprocess.Popen(
        argv, env={**os.environ, **env}, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode != 0:
        raise SystemExit(f"$ {' '.join(argv)}\nended with {process.returncode}:\n{output}")
    return Ran(seconds, used.ru_maxrss / 1000, output)
