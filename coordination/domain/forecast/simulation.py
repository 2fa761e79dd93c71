"""Monte Carlo simulation of the duration and cost of a graph of tasks, from samples of earlier jobs.

Each round draws every attempt from the samples of its kind, and runs tasks in the slots by priority, then in the plan's
order, within limits. The fewer samples a kind has, the larger is the random factor of all its attempts in a round. The
same seed gives the same rounds.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from heapq import heapify, heappop, heappush

from coordination.domain.forecast.predictions import JobTypePrediction, Percentiles, PredictedTask, Prediction
from coordination.domain.money.estimates import JobSample
from coordination.domain.tasks.retry import Backoff, backoff_delay

FEWEST_ROUNDS, MOST_ROUNDS = 21, 1_001
EFFORT = 300_000
"""The approximate number of simulated attempts in all rounds: about two seconds of work."""

_DOUBT = 0.4  # of a single sample: two of three jobs take between 2/3 and 3/2 of its duration
_MOST_REPEATED = 10
_LONGEST = 1e13  # seconds, which a timedelta can hold


@dataclass(frozen=True, slots=True)
class SamplePool:
    """The samples from which attempts of one kind are drawn; ``source``: their origin, for people.

    ``measured``: the number of real attempts. ``timed`` and ``priced``: whether durations and costs are known.
    """

    kind: str
    samples: tuple[JobSample, ...]
    source: str
    measured: int = 0
    timed: bool = True
    priced: bool = True

    @property
    def doubt(self) -> float:
        """Return the standard deviation of the logarithm of the common factor of all samples."""
        return _DOUBT / math.sqrt(max(1, self.measured))


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """One task. ``pool`` and ``parents`` are numbers; ``limits``: the names of its concurrency limits.

    ``first``: it starts when the first of its parents has completed, and the others are stopped.
    """

    key: str
    pool: int
    parents: tuple[int, ...] = ()
    priority: int = 0
    attempts: int = 1
    limits: tuple[str, ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    earliest: timedelta = timedelta(0)
    timeout: timedelta | None = None
    first: bool = False


@dataclass(slots=True)
class _Round:
    took: float
    usd: float
    tokens: float
    unpriced: float
    failed: bool


@dataclass(slots=True)
class _Trace:
    """The times when each task became ready, started and ended."""

    ready: dict[int, float] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)


def simulate(
    tasks: Sequence[SimulatedTask],
    pools: Sequence[SamplePool],
    *,
    slots: int,
    caps: Mapping[str, int] | None = None,
    budget: Decimal | None = None,
    effort: int = EFFORT,
    seed: int = 0,
) -> Prediction:
    """Simulate *tasks*, each after its parents, with that many *slots*; *caps*: the size of each limit.

    *effort*: the approximate number of attempts in all rounds.
    """
    graph = _Graph(tasks, pools, max(1, slots), caps or {})
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(effort / graph.attempts())))
    results = [graph.simulate(random.Random(f"{seed}/{number}")) for number in range(rounds)]  # noqa: S311 - no secret
    middle = sorted(range(rounds), key=lambda number: results[number].took)[_index(0.5, rounds)]
    trace = _Trace()
    graph.simulate(random.Random(f"{seed}/{middle}"), trace)  # noqa: S311
    costs = [one.usd for one in results]
    return Prediction(
        tasks=len(tasks),
        slots=slots,
        rounds=rounds,
        duration=Percentiles(*(_time(at) for at in _percentiles(one.took for one in results))),
        usd=Percentiles(*(_dollars(at) for at in _percentiles(costs))),
        tokens=Percentiles(*(round(at) for at in _percentiles(one.tokens for one in results))),
        unpriced=Percentiles(*(round(at) for at in _percentiles(one.unpriced for one in results))),
        path=_path(tasks, trace),
        kinds=_kinds(tasks, pools),
        untimed=tuple(dict.fromkeys(pool.kind for pool in pools if not pool.timed)),
        uncosted=tuple(dict.fromkeys(pool.kind for pool in pools if not pool.priced)),
        failing=sum(one.failed for one in results) / rounds,
        budget=budget,
        within_budget=None if budget is None else sum(cost <= float(budget) for cost in costs) / rounds,
    )


class _Graph:
    """The graph as numbers, built once for all rounds."""

    def __init__(
        self, tasks: Sequence[SimulatedTask], pools: Sequence[SamplePool], slots: int, caps: Mapping[str, int]
    ) -> None:
        self.tasks, self.slots = tasks, slots
        self.children: list[list[int]] = [[] for _ in tasks]
        for number, task in enumerate(tasks):
            for parent in task.parents:
                self.children[parent].append(number)
        self.waits = [len(task.parents) for task in tasks]
        self.limits = [tuple(name for name in task.limits if name in caps) for task in tasks]
        self.caps = {name: caps[name] for name in {name for names in self.limits for name in names}}
        self.order = sorted(range(len(tasks)), key=lambda number: (-tasks[number].priority, number))
        self.rank = [0] * len(tasks)
        for rank, number in enumerate(self.order):
            self.rank[number] = rank
        self.left = [min(task.attempts, _MOST_REPEATED) for task in tasks]
        self.longest = [math.inf if task.timeout is None else task.timeout.total_seconds() for task in tasks]
        self.earliest = [task.earliest.total_seconds() for task in tasks]
        self.pools = [task.pool for task in tasks]
        self.doubts = [pool.doubt for pool in pools]
        self.draws = [
            [
                (one.took.total_seconds(), float(one.usd or 0), one.tokens, one.unpriced, one.completed)
                for one in pool.samples
            ]
            for pool in pools
        ]

    def attempts(self) -> float:
        """Return the expected number of attempts in a round."""
        failing = [1 - sum(draw[4] for draw in draws) / len(draws) for draws in self.draws]
        return sum(
            left if share == 1 else (1 - share**left) / (1 - share)
            for share, left in ((failing[pool], left) for pool, left in zip(self.pools, self.left, strict=True))
        )

    def simulate(self, chance: random.Random, trace: _Trace | None = None) -> _Round:
        """Simulate one round."""
        return _RoundState(self, chance, trace).run()


class _RoundState:
    """The state of one round: ready tasks, running tasks, and tasks that wait for a limit."""

    def __init__(self, graph: _Graph, chance: random.Random, trace: _Trace | None) -> None:
        self.graph, self.chance, self.trace = graph, chance, trace
        self.now, self.free = 0.0, graph.slots
        self.free_places = dict(graph.caps)
        self.waiting: dict[str, list[int]] = {name: [] for name in graph.caps}
        self.waits, self.left = list(graph.waits), list(graph.left)
        self.ready: list[int] = []
        self.coming: list[tuple[float, int]] = []  # (time, number) of ends of attempts; ~number: a task becomes ready
        self.running: dict[int, tuple[float, float, float]] = {}  # start, duration, dollars
        self.ended: set[int] = set()
        self.succeeds = [True] * len(graph.tasks)
        self.result = _Round(0.0, 0.0, 0.0, 0.0, failed=False)
        # Few samples may be wrong as a whole, in durations and in costs.
        self.time_factor = [math.exp(chance.gauss(0, doubt)) for doubt in graph.doubts]
        self.cost_factor = [math.exp(chance.gauss(0, doubt)) for doubt in graph.doubts]

    def run(self) -> _Round:
        for number, waits in enumerate(self.waits):
            if not waits:
                self._make_ready(number)
        heapify(self.ready)
        while True:
            while self.ready and self.free:
                self._start(self.graph.order[heappop(self.ready)])
            if not self.coming:
                return self.result
            self.now, number = heappop(self.coming)
            if number < 0:
                heappush(self.ready, self.graph.rank[~number])
            elif number not in self.ended:
                self._end(number)

    def _make_ready(self, number: int) -> None:
        if self.trace is not None:
            self.trace.ready[number] = self.now
        if self.graph.earliest[number] > self.now:
            heappush(self.coming, (self.graph.earliest[number], ~number))
        else:
            heappush(self.ready, self.graph.rank[number])

    def _start(self, number: int) -> None:
        graph = self.graph
        if limits := graph.limits[number]:
            full = next((name for name in limits if not self.free_places[name]), None)
            if full is not None or number in self.ended:
                if full is not None and number not in self.ended:
                    heappush(self.waiting[full], graph.rank[number])
                for name in limits:  # the next task can use the place that this one does not
                    if self.free_places[name]:
                        self._resume_waiting(name)
                return
            for name in limits:
                self.free_places[name] -= 1
        elif number in self.ended:
            return
        self.free -= 1
        pool = graph.pools[number]
        draws = graph.draws[pool]
        seconds, dollars, tokens, unpriced, self.succeeds[number] = draws[int(self.chance.random() * len(draws))]
        took = min(seconds * self.time_factor[pool], graph.longest[number])
        cost_factor = self.cost_factor[pool]
        self.running[number] = (self.now, took, dollars * cost_factor)
        self.result.usd += dollars * cost_factor
        self.result.tokens += tokens * cost_factor
        self.result.unpriced += unpriced
        if self.trace is not None:
            self.trace.started.setdefault(number, self.now)
        heappush(self.coming, (self.now + took, number))

    def _resume_waiting(self, name: str) -> None:
        if self.waiting[name]:
            heappush(self.ready, heappop(self.waiting[name]))

    def _leave(self, number: int) -> None:
        self.free += 1
        del self.running[number]
        for name in self.graph.limits[number]:
            self.free_places[name] += 1
            self._resume_waiting(name)

    def _end(self, number: int) -> None:
        self._leave(number)
        self.left[number] -= 1
        if not self.succeeds[number] and self.left[number] > 0:
            task = self.graph.tasks[number]
            failed = self.graph.left[number] - self.left[number]
            heappush(self.coming, (self.now + backoff_delay(failed, task.backoff).total_seconds(), ~number))
            return
        self.result.failed |= not self.succeeds[number]
        self.result.took = self.now
        self.ended.add(number)
        if self.trace is not None:
            self.trace.ended[number] = self.now
        for child in self.graph.children[number]:
            self.waits[child] -= 1
            if self.graph.tasks[child].first:
                self._start_first(child, by=number)
            elif not self.waits[child]:
                self._make_ready(child)

    def _start_first(self, child: int, *, by: int) -> None:
        """Start a task after the first success of a parent; stop the others, whose costs until then count."""
        parents = self.graph.tasks[child].parents
        if not self.succeeds[by] and self.waits[child]:
            return  # another parent may still succeed
        for other in parents:
            if other in self.ended:
                continue
            self.ended.add(other)
            if other in self.running:
                since, took, dollars = self.running[other]
                if took:
                    self.result.usd -= dollars * (1 - (self.now - since) / took)
                self._leave(other)
        self.waits[child] = -len(parents)  # never reaches zero again
        self._make_ready(child)


def _path(tasks: Sequence[SimulatedTask], trace: _Trace) -> tuple[PredictedTask, ...]:
    """Return the critical path: from the task that ended last, back over the parent that ended last."""
    legs: list[PredictedTask] = []
    number: int | None = max(trace.ended, key=lambda each: (trace.ended[each], each), default=None)
    while number is not None:
        ready, started, ended = trace.ready[number], trace.started[number], trace.ended[number]
        legs.append(PredictedTask(tasks[number].key, _time(ended - started), _time(started - ready)))
        before = [parent for parent in tasks[number].parents if trace.ended.get(parent, math.inf) <= ready]
        number = max(before, key=lambda each: (trace.ended[each], -each), default=None)
    return tuple(reversed(legs))


def _kinds(tasks: Sequence[SimulatedTask], pools: Sequence[SamplePool]) -> tuple[JobTypePrediction, ...]:
    counts: Counter[str] = Counter(pools[task.pool].kind for task in tasks)
    by_kind: dict[str, list[SamplePool]] = {}
    for pool in pools:
        by_kind.setdefault(pool.kind, []).append(pool)
    return tuple(_kind(kind, counts[kind], same) for kind, same in by_kind.items())


def _kind(kind: str, tasks: int, pools: Sequence[SamplePool]) -> JobTypePrediction:
    samples = [one for pool in pools for one in pool.samples]
    seconds = _percentiles(one.took.total_seconds() for one in samples)[1]
    dollars = _percentiles(float(one.usd or 0) for one in samples)[1]
    unknown = not all(pool.priced for pool in pools) or (not dollars and any(one.unpriced for one in samples))
    return JobTypePrediction(
        kind,
        tasks,
        measured=sum(pool.measured for pool in pools),
        source=pools[0].source,
        took=timedelta(seconds=seconds) if all(pool.timed for pool in pools) else None,
        usd=None if unknown else _dollars(dollars),
    )


def _percentiles(values: Iterable[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    low, middle, high = (ordered[_index(share, len(ordered))] for share in (0.1, 0.5, 0.9))
    return low, middle, high


def _index(share: float, number: int) -> int:
    return round(share * (number - 1))


def _time(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, _LONGEST))


def _dollars(amount: float) -> Decimal:
    return Decimal(f"{max(0.0, amount):.6f}")
