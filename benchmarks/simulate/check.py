"""The model beside the truth: real worker processes on this machine, three loads, the same asked of the model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from benchmarks.bench import Bench, OurStack, no_op, open_bench
from benchmarks.simulate.model import Fleet, World
from benchmarks.simulate.times import ServiceTimes
from coordination import Task

WITHIN = 0.15
_CORES = 2
_SECONDS = 8.0
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Load:
    """Jobs of one kind. *job*: seconds that one sleeps; *guess*: tasks a second of one worker, for the size."""

    name: str
    job: float
    guess: float
    task: Callable[[str], Task]


def _nap(seconds: float) -> Callable[[str], Task]:
    target = f"benchmarks.jobs:nap_{round(seconds * 1000)}"
    return lambda key: Task(key, {"python": target, "args": {"seconds": seconds}})


LOADS = (
    Load("no-op tasks in batches", 0.0, 3000, no_op),
    Load("jobs of 50 ms", 0.05, 160, _nap(0.05)),
    Load("jobs of 200 ms", 0.2, 40, _nap(0.2)),
)


def check(times: ServiceTimes, *, workers: Sequence[int], scale: float) -> int:
    """Print the model's and the real rate of each load on so many workers; 0 if all lie within the goal, else 1."""
    good = True
    with open_bench(rounds=1, scale=scale, workers=1) as bench:
        for count in workers:
            stack = _stack(bench, count)
            try:
                for load in LOADS:
                    number = max(50, int(load.guess * (count if load.job else min(count, 2)) * _SECONDS * scale))
                    stack.seconds([load.task(f"w{index}") for index in range(max(50, number // 4))])
                    found = [_real(stack, load, number) for _ in range(_ROUNDS if scale == 1 else 1)]
                    real = statistics.median(rate for rate, _ in found)
                    modelled = simulated(times, load, count, number)
                    off = modelled / real - 1
                    good = good and abs(off) <= WITHIN
                    print(
                        f"{load.name}, {count} worker processes: real {real:,.0f} tasks/s"
                        f" ({min(found)[0]:,.0f} to {max(found)[0]:,.0f}), model {modelled:,.0f}, {off:+.0%};"
                        f" connections open per worker {max(open_ for _, open_ in found) / count:.1f}",
                        flush=True,
                    )
            finally:
                stack.close()
    print(f"All within {WITHIN:.0%}." if good else f"Not all within {WITHIN:.0%}.")
    return 0 if good else 1


def simulated(times: ServiceTimes, load: Load, workers: int, number: int) -> float:
    """What the model says: tasks a second until so many are done, two cores shared by all."""
    fleet = Fleet(workers=workers, job=load.job, shared_cores=_CORES, tasks=number)
    return World(times, fleet).run(warm_up=0.0, seconds=600).rate


def _stack(bench: Bench, count: int) -> OurStack:
    stack = OurStack("postgresql", bench.environment("postgresql", database=3))
    stack.start_workers(count)
    return stack


def _real(stack: OurStack, load: Load, number: int) -> tuple[float, int]:
    """Tasks a second between the first start and the last end, and connections that are open then."""
    run = stack.submit([load.task(f"t{index}") for index in range(number)])
    stack.end_of(run)
    with psycopg.connect(stack.environment["COORD_DATABASE_URL"].replace("+psycopg", "")) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM max(finished_at) - min(started_at)),"
            " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            "  AND application_name = 'coordination')"
            " FROM attempts WHERE run_id = %s",
            [run.id],
        ).fetchone()
    assert row is not None
    time.sleep(0.5)
    return number / float(row[0]), int(row[1]) - 1
