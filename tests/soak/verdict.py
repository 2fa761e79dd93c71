"""Evaluates the samples of a soak: slopes after a warm-up, what is left over, and whether a bound was exceeded."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from tests.soak.sampling import Life, Sample

WARM_UP_SECONDS = 300.0
"""What a process fills once: pools, caches, imports that come late. Never more than a third of its life."""

MOST_MB_AN_HOUR = 10.0
MOST_DESCRIPTORS_AN_HOUR = 10.0
"""Bounds of growth. Each counts only together with the next, absolute one, so that a short soak is judged fairly."""

MOST_MB_GROWN = 5.0
MOST_DESCRIPTORS_GROWN = 8.0

MOST_TIMES_SLOWER = 2.0
MOST_SECONDS_SLOWER = 0.25
"""The median way of the probe in the last quarter beside the first one; both must be passed to be a failure."""

_LEAST_SAMPLES = 12
_LEAST_SECONDS = 240.0
_STRETCH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Trend:
    """How one life went after its warm-up: slopes by the hour, and their sum over the evaluated time."""

    role: str
    pid: int
    seconds: float
    pss: float
    mb_an_hour: float
    mb_grown: float
    children_mb_an_hour: float
    descriptors: float
    descriptors_an_hour: float
    descriptors_grown: float
    descriptors_floor_rose: float
    threads: int
    lasting_zombies: int

    @property
    def too_much(self) -> list[str]:
        """Return the bounds that it exceeded. Slopes of a short life are shown, and do not count."""
        exceeded = []
        if self.lasting_zombies:
            exceeded.append(f"{self.role} ({self.pid}) has left {self.lasting_zombies} zombies")
        if self.seconds < _LEAST_SECONDS:
            return exceeded
        if self.mb_an_hour > MOST_MB_AN_HOUR and self.mb_grown > MOST_MB_GROWN:
            exceeded.append(f"{self.role} ({self.pid}) grows by {self.mb_an_hour:.1f} MB/h")
        if (
            self.descriptors_an_hour > MOST_DESCRIPTORS_AN_HOUR
            and self.descriptors_grown > MOST_DESCRIPTORS_GROWN
            and self.descriptors_floor_rose > MOST_DESCRIPTORS_GROWN / 2
        ):
            exceeded.append(f"{self.role} ({self.pid}) opens {self.descriptors_an_hour:.1f} descriptors/h more")
        return exceeded


@dataclass(frozen=True, slots=True)
class Latency:
    """The probe's time in seconds, in one quarter of the soak."""

    probes: int
    p50: float
    p95: float


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes between all pairs (Theil and Sen): a third of the points may lie anywhere."""
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0])


def trend(life: Life) -> Trend | None:
    """Return how a life went, or None when it was too short."""
    if not life.samples:
        return None
    first, last = life.samples[0].at, life.samples[-1].at
    warm = first + min(WARM_UP_SECONDS, (last - first) / 3)
    samples = [sample for sample in life.samples if sample.at >= warm]
    if len(samples) < _LEAST_SAMPLES:
        return None
    hours = (samples[-1].at - samples[0].at) / 3600
    memory = _hourly(samples, "uss")
    descriptors = slope([(sample.at / 3600, float(sample.descriptors)) for sample in lows(samples)])
    return Trend(
        role=life.role,
        pid=life.pid,
        seconds=last - first,
        pss=statistics.median(sample.pss for sample in samples),
        mb_an_hour=memory,
        mb_grown=memory * hours,
        children_mb_an_hour=_hourly(samples, "children_uss"),
        descriptors=statistics.median(sample.descriptors for sample in samples),
        descriptors_an_hour=descriptors,
        descriptors_grown=descriptors * hours,
        descriptors_floor_rose=floor_rose([sample.descriptors for sample in samples]),
        threads=max(sample.threads for sample in samples),
        lasting_zombies=lasting_zombies(life.samples),
    )


def lows(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with the fewest descriptors of each stretch: jobs open pipes, only what stays is a leak."""
    stretch = max(_STRETCH_SECONDS, (samples[-1].at - samples[0].at) / 20)
    lowest: dict[int, Sample] = {}
    for sample in samples:
        place = int((sample.at - samples[0].at) / stretch)
        if place not in lowest or sample.descriptors < lowest[place].descriptors:
            lowest[place] = sample
    return list(lowest.values())


def floor_rose(descriptors: Sequence[int]) -> int:
    """Return how much the minimum of the second half exceeds that of the first: half of what leaked evenly.

    A slope over a life of a few minutes follows the jobs of its last seconds; a leak leaves no low point behind it.
    """
    middle = len(descriptors) // 2
    return min(descriptors[middle:]) - min(descriptors[:middle])


def lasting_zombies(samples: Sequence[Sample]) -> int:
    """Return the most zombies in three samples in a row; one that is about to be reaped does not count."""
    return max((min(sample.zombies for sample in samples[i : i + 3]) for i in range(len(samples) - 2)), default=0)


def quarters(latencies: Sequence[tuple[float, float]]) -> tuple[Latency, Latency] | None:
    """Return the probe in the first and in the last quarter of the time."""
    if len(latencies) < 8:
        return None
    first, last = latencies[0][0], latencies[-1][0]
    quarter = (last - first) / 4
    return (
        _latency([seconds for at, seconds in latencies if at <= first + quarter]),
        _latency([seconds for at, seconds in latencies if at >= last - quarter]),
    )


def slower(first: Latency, last: Latency) -> list[str]:
    """Return the bound of the probe, if it was exceeded."""
    if last.p50 > first.p50 * MOST_TIMES_SLOWER and last.p50 > first.p50 + MOST_SECONDS_SLOWER:
        return [f"the probe took {last.p50:.3f} s at the end (median), {first.p50:.3f} s at the start"]
    return []


def _latency(seconds: Sequence[float]) -> Latency:
    ordered = sorted(seconds)
    return Latency(len(ordered), statistics.median(ordered), ordered[int(len(ordered) * 0.95)])


def _hourly(samples: Sequence[Sample], name: str) -> float:
    return slope([(sample.at / 3600, float(getattr(sample, name))) for sample in samples])
