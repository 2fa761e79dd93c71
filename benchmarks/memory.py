"""Memory of a worker process that waits for work, alone and with the helpers it keeps."""

from __future__ import annotations

import psutil

from benchmarks import goals
from benchmarks.bench import Bench, OurStack, no_op
from benchmarks.measure import series
from benchmarks.report import Line


def measure(bench: Bench) -> list[Line]:
    """Resident memory of the process with 32 slots before any job, and unique memory of its whole family after."""
    alone, family = [], []
    for _ in range(bench.rounds):
        stack = OurStack("sqlite", bench.environment("sqlite", database=4))
        try:
            worker = psutil.Process(stack.start_worker("-c", "32").pid)
            alone.append(worker.memory_info().rss / 1_000_000)
            stack.seconds([no_op(f"t{index}") for index in range(bench.size(200))])
            members = [worker, *worker.children(recursive=True)]
            family.append(sum(one.memory_full_info().uss for one in members if one.is_running()) / 1_000_000)
        finally:
            stack.close()
    return [
        Line("memory of an idle worker process, 32 slots", "sqlite", series(alone, "MB"), goal=goals.IDLE_MEMORY),
        Line("unique memory of it and its children after 200 Python jobs", "sqlite", series(family, "MB")),
    ]
