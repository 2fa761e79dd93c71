"""What coordinating costs per agent process: a plan of processes that do nothing, beside starting them and no more."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks import goals
from benchmarks.bench import STORES, Bench
from benchmarks.measure import Series, in_turns, series
from benchmarks.ours import SLOTS
from benchmarks.report import Line
from coordination import Task

_COMMAND = "true"


def measure(bench: Bench) -> list[Line]:
    """Seconds per task over the bare processes on as many slots, and CPU seconds per task of all our processes."""
    count = bench.size(100)
    slots = SLOTS * bench.workers
    spent: dict[str, list[float]] = {kind: [] for kind in STORES}

    def ours(kind: str) -> float:
        stack = bench.ours[kind]
        before = stack.cpu_seconds()
        seconds = stack.seconds([Task(f"t{index}", {"shell": _COMMAND}) for index in range(count)], project="agents")
        spent[kind].append((stack.cpu_seconds() - before) / count)
        return seconds

    sides = {kind: (lambda kind=kind: ours(kind)) for kind in STORES}
    taken = in_turns(bench.rounds, {"bare": lambda: _bare(count, slots), **sides})
    lines = [
        Line(f"{count} bare processes, {slots} at a time, per process", "this machine", _each(taken["bare"], count)),
        *(Line(f"plan of {count} such processes, per task", kind, _each(taken[kind], count)) for kind in STORES),
    ]
    for kind in STORES:
        over = [(mine - bare) / count for mine, bare in zip(taken[kind], taken["bare"], strict=True)]
        lines += [
            Line(f"coordinating each of {count} processes", kind, series(over, "s"), goal=goals.AGENT),
            Line("CPU seconds per task of all our processes", kind, series(spent[kind], "s")),
        ]
    return lines


def _bare(count: int, slots: int) -> float:
    """Seconds of as many processes, each in a session of its own as a job is."""
    began = time.perf_counter()
    with ThreadPoolExecutor(slots) as threads:
        list(threads.map(_run, range(count)))
    return time.perf_counter() - began


def _run(_: int) -> int:
    return subprocess.run(["/bin/sh", "-c", _COMMAND], check=True, start_new_session=True).returncode


def _each(seconds: list[float], count: int) -> Series:
    return series([value / count for value in seconds], "s")
