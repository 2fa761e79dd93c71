"""Asks the model for fleets that this machine cannot hold: rates, waits, how much is used, what is full."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from benchmarks.simulate.model import Fleet, Result, World
from benchmarks.simulate.times import ServiceTimes

JOBS = {"1 ms": 0.001, "100 ms": 0.1, "10 s": 10.0, "10 min": 600.0}
FLEETS = ((10, 100), (100, 1_000), (1_000, 10_000))
"""Worker processes, and projects with open work."""

_TRIP = 0.00025  # seconds to a server in the same data centre and back
_LOAD = 0.7  # of the slots, for the waits
_HARD = 0.85  # a part that is used so much of the time holds the others up


@dataclass(frozen=True, slots=True)
class Question:
    """A fleet, and in words what is changed against the defaults."""

    fleet: Fleet
    job: str
    changed: str = ""


def questions() -> list[Question]:
    """The fleets with every length of job; then, for the largest, what moves the wall."""
    found = [
        Question(Fleet(workers=workers, projects=projects, job=seconds, trip=_TRIP), job)
        for workers, projects in FLEETS
        for job, seconds in JOBS.items()
    ]
    large = Fleet(workers=1_000, projects=10_000, job=600.0, trip=_TRIP)
    slow = {"sweep": 30.0, "tick": 30.0}
    changes: tuple[tuple[str, dict[str, float]], ...] = (
        ("COORD_TICK and COORD_SWEEP 30 s", slow),
        ("the same, and 64 cores", {**slow, "database_cores": 64}),
        ("the same, and a search for prefetched tasks every 10 s", {**slow, "look": 10.0}),
    )
    found += [Question(replace(large, **changed), "10 min", name) for name, changed in changes]  # type: ignore[arg-type]
    found += [
        Question(
            replace(large, job=10.0, slots=slots, workers=workers, **slow),
            "10 s",
            f"30 s, {slots} slots",  # type: ignore[arg-type]
        )
        for workers, slots in ((1_000, 8), (125, 64))
    ]
    found.append(Question(Fleet(workers=1_000, projects=100, job=600.0, trip=_TRIP), "10 min"))
    return found


def ask(times: ServiceTimes, *, scale: float) -> int:
    """Print a table; returns 0."""
    print(
        "| workers | projects | job | changed | tasks/s | start p50 | start p99 | database | disk | Redis | worker |"
        " slots | ticks/s | slowest heartbeat | open each | held by |"
    )
    print("|---:|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for question in questions():
        fleet = question.fleet
        warm_up, seconds = (8.0 * scale, 8.0 * scale) if fleet.workers <= 100 else (5.0 * scale, 5.0 * scale)
        result = World(times, fleet).run(warm_up=warm_up, seconds=seconds)
        capacity = fleet.workers * fleet.slots / max(fleet.job, 1e-3)
        calm = replace(fleet, arrivals=_LOAD * min(result.rate, capacity) if fleet.job < 1 else _LOAD * capacity)
        # The waits of the long jobs' changes would say the same as the first of them.
        waited = None if question.changed else World(times, calm).run(warm_up=warm_up, seconds=seconds)
        print(row(question, result, waited), flush=True)
    return 0


def row(question: Question, result: Result, waited: Result | None) -> str:
    """One line: the rates with endless work, the waits when seven tenths of that comes."""
    fleet = question.fleet
    cells = [
        f"{fleet.workers:,}",
        f"{fleet.projects:,}",
        question.job,
        question.changed,
        f"{result.rate:,.0f}",
        *(_milliseconds(waited.wait(share) if waited else math.nan) for share in (0.5, 0.99)),
        *(f"{share:.0%}" for share in (result.database, result.flushing, result.redis, result.worker, result.slots)),
        f"{result.ticks:,.0f}",
        f"{result.late:.1f} s",
        f"{result.connections:.1f}",
        held_by(result),
    ]
    return f"| {' | '.join(cells)} |"


def held_by(result: Result) -> str:
    """What is used to its limit, the servers before the slots: those are what one wants to be full."""
    shares = {"database": result.database, "disk": result.flushing, "Redis": result.redis, "worker": result.worker}
    full = [name for name, share in shares.items() if share >= _HARD]
    return ", ".join(full) or ("slots" if result.slots >= _HARD else "-")


def _milliseconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:,.0f} ms"
