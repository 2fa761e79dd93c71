"""What each step costs, as measured: CPU seconds on either side, commits, trips, bytes of log. One JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.places import HERE

FILE = HERE / "simulate" / "service_times.json"

OPERATIONS = (
    "claim",
    "end_and_enqueue",
    "end_and_go_on",
    "enqueue",
    "message",
    "batch",
    "long_job",
    "heartbeat",
    "tick",
    "nothing_due",
    "sweep",
    "prefetch_recovery",
    "fleet_size",
)
PARTS = ("worker", "child", "database", "redis", "commits", "trips", "log")
"""CPU seconds of the worker process, its interpreter, the database, Redis; commits that reach the disk; round trips
to the database; bytes of its log."""


class BadTimesError(Exception):
    """The file of service times cannot be used; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Cost:
    """So much each time, and so much more for each task (attempt, row) in it."""

    fixed: float = 0.0
    each: float = 0.0

    def of(self, number: float) -> float:
        """For so many."""
        return self.fixed + self.each * number


@dataclass(frozen=True, slots=True)
class Operation:
    """What one step costs, by part."""

    worker: Cost = Cost()
    child: Cost = Cost()
    database: Cost = Cost()
    redis: Cost = Cost()
    commits: Cost = Cost()
    trips: Cost = Cost()
    log: Cost = Cost()


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """All that the model is fed with. Seconds."""

    operations: Mapping[str, Operation]
    flush: float
    redis_trip: float
    contention: float  # CPU of a real worker for a short task, beside the sum of its steps by one thread
    about: str

    def __getitem__(self, name: str) -> Operation:
        return self.operations[name]


def write(times: ServiceTimes, path: Path = FILE) -> None:
    """Keep what was measured."""
    document = {
        "about": times.about,
        "flush": float(f"{times.flush:.3g}"),
        "redis_trip": float(f"{times.redis_trip:.3g}"),
        "contention": float(f"{times.contention:.3g}"),
        "operations": {name: _told(operation) for name, operation in times.operations.items()},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _told(operation: Operation) -> dict[str, Any]:
    costs = {
        part: {key: float(f"{value:.3g}") for key, value in cost.items()} for part, cost in asdict(operation).items()
    }
    return {part: cost for part, cost in costs.items() if any(cost.values())}


def read(path: Path = FILE) -> ServiceTimes:
    """What was measured; BadTimesError with one sentence when the file is missing or is not that."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadTimesError(f"{path} does not exist: python -m benchmarks.simulate measure writes it") from None
    except (OSError, ValueError) as error:
        raise BadTimesError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("operations"), dict):
        raise BadTimesError(f"{path} holds no operations")
    operations = {}
    for name in OPERATIONS:
        parts = document["operations"].get(name)
        if not isinstance(parts, dict):
            raise BadTimesError(f"{path} says nothing about {name!r}")
        operations[name] = Operation(**{part: _cost(path, name, part, cost) for part, cost in parts.items()})
    return ServiceTimes(
        operations,
        flush=_number(path, "flush", document),
        redis_trip=_number(path, "redis_trip", document),
        contention=_number(path, "contention", document),
        about=str(document.get("about", "")),
    )


def _cost(path: Path, name: str, part: str, cost: Any) -> Cost:
    if part not in PARTS:
        raise BadTimesError(f"{path}: {name!r} has a part {part!r}, which is none of {', '.join(PARTS)}")
    if not isinstance(cost, dict):
        raise BadTimesError(f"{path}: {part!r} of {name!r} is not fixed and each")
    return Cost(*(_number(path, key, cost, f" of {part!r} of {name!r}") for key in ("fixed", "each")))


def _number(path: Path, key: str, document: Mapping[str, Any], where: str = "") -> float:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadTimesError(f"{path}: {key!r}{where} is {value!r}, no number of at least 0")
    return float(value)
