"""Medians and spreads, and one process measured from outside: seconds and peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
        low, high = min(self.values), max(self.values)
        return f"{number(self.median)} {self.unit} ({number(low)} to {number(high)})"


def series(values: Sequence[float], unit: str) -> Series:
    """*values* as measured."""
    return Series(tuple(values), unit)


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
