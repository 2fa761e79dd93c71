"""What a thousand running jobs cost while they only run: leases, heartbeats, supervisors, in CPU seconds per second."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta

import psutil
import psycopg

from benchmarks import goals
from benchmarks.bench import Bench, OurStack
from benchmarks.measure import cpu_seconds, series
from benchmarks.report import Line
from coordination import Task, TaskState
from tests.support.processes import until

_JOBS = 1000
_WORKERS = 4
_ROOM = 1.25  # slots for every job: what is measured is jobs that run, not how the last of them finds the last slot
_WINDOW = 30.0  # seconds: three heartbeats


def measure(bench: Bench) -> list[Line]:
    """Per cent of a core, of our processes and of the servers: with nothing to do, and with the jobs running."""
    jobs = bench.size(_JOBS)
    slots = math.ceil(jobs / _WORKERS * _ROOM)
    idle, busy = cost(bench, jobs=jobs, workers=_WORKERS, window=max(_WINDOW * bench.scale, 2.0))
    what = f"{_WORKERS} worker processes, {jobs:,} running jobs"
    nothing = f"{_WORKERS} worker processes, {slots * _WORKERS:,} slots, nothing to do"
    return [
        Line(f"{what}: our processes", "postgresql", series([busy[0]], "% of a core"), goal=goals.RUNNING_OVERHEAD),
        Line(f"{what}: PostgreSQL and Redis", "postgresql", series([busy[1]], "% of a core")),
        Line(f"{nothing}: our processes", "postgresql", series([idle[0]], "% of a core")),
        Line(f"{nothing}: PostgreSQL and Redis", "postgresql", series([idle[1]], "% of a core")),
    ]


def cost(
    bench: Bench, *, jobs: int, workers: int, window: float, extra: Mapping[str, str] | None = None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What our processes and the servers use, in per cent of a core: with nothing to do, and while *jobs* run."""
    slots = math.ceil(jobs / workers * _ROOM)
    stack = OurStack("postgresql", {**bench.environment("postgresql", database=6), **(extra or {})})
    servers = list(server_pids(bench, stack).values())
    try:
        stack.start_workers(workers, "-c", str(slots))
        time.sleep(1)  # what a start leaves behind
        idle = _used(stack, servers, window / 4)
        run = stack.submit([Task(f"t{index}", {"shell": "exec sleep 3600"}) for index in range(jobs)])
        until(
            lambda: run.record.counts.get(TaskState.RUNNING, 0) == jobs,
            within=timedelta(seconds=120),
            what=f"{jobs} jobs run",
        )
        time.sleep(2)
        busy = _used(stack, servers, window)
        still = run.record.counts.get(TaskState.RUNNING, 0)
        if still != jobs:
            raise SystemExit(f"Only {still} of {jobs} jobs ran to the end of the measurement")
        run.cancel()
        until(lambda: run.state.ended, within=timedelta(seconds=60), what="the jobs have ended")
    finally:
        stack.close()
    return idle, busy


def _used(stack: OurStack, servers: list[int], window: float) -> tuple[float, float]:
    """Per cent of a core that our processes and the servers used during *window* seconds."""
    began, before = time.monotonic(), (stack.cpu_seconds(), sum(map(cpu_seconds, servers)))
    time.sleep(window)
    after = (stack.cpu_seconds(), sum(map(cpu_seconds, servers)))
    passed = time.monotonic() - began
    return (after[0] - before[0]) / passed * 100, (after[1] - before[1]) / passed * 100


def server_pids(bench: Bench, stack: OurStack | None = None) -> dict[str, int]:
    """The Redis and, for a *stack* on PostgreSQL, the parent of its processes where they run on this machine."""
    assert bench.redis.process is not None
    found = {"Redis": bench.redis.process.pid}
    if stack is not None:
        with psycopg.connect(stack.environment["COORD_DATABASE_URL"].replace("+psycopg", "")) as connection:
            backend = connection.info.backend_pid
            if psutil.pid_exists(backend) and (parent := psutil.Process(backend).ppid()):
                found["PostgreSQL"] = parent
    return found
