"""What a graph of jobs will take and cost: played through many times with what jobs like these took before. Pure.

Each round draws every attempt from the samples of its kind, and lets as many jobs run at once as there are places: by
priority, then in the plan's order, under its limits. The fewer samples a kind has, the further all of it may be off
in a round. The same seed plays the same rounds.
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

from coordination.domain.forecast.predictions import (
    CostRange,
    Durations,
    JobTypePrediction,
    PredictedCounts,
    PredictedStep,
    Prediction,
)
from coordination.domain.money.estimates import JobSample
from coordination.domain.tasks.retry import Backoff

FEWEST_ROUNDS, MOST_ROUNDS = 21, 1_001
EFFORT = 300_000
"""So many attempts are played in all, about: two seconds' work."""

_DOUBT = 0.4  # of a single sample: two out of three jobs take between two thirds of it and one and a half times as long
_MOST_REPEATED = 10
_LONGEST = 1e13  # seconds, which a timedelta can hold


@dataclass(frozen=True, slots=True)
class SimulatedWorkers:
    """What attempts of one kind are drawn from; ``source``: where that is known from, for people.

    ``measured``: how many attempts were really seen. ``timed`` and ``priced``: whether durations, and costs, are known.
    """

    kind: str
    samples: tuple[JobSample, ...]
    source: str
    measured: int = 0
    timed: bool = True
    priced: bool = True

    @property
    def doubt(self) -> float:
        """How far all of them may be off together: the deviation of the logarithm of a factor."""
        return _DOUBT / math.sqrt(max(1, self.measured))


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """One task. ``pool`` and ``parents`` by their numbers; ``limits``: what it takes a place of, by name.

    ``first``: it begins when the first of its parents has completed, and the others are stopped.
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
    """When each task could begin, began and ended."""

    ready: dict[int, float] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)


def simulate(
    steps: Sequence[SimulatedStep],
    pools: Sequence[SimulatedWorkers],
    *,
    slots: int,
    caps: Mapping[str, int] | None = None,
    budget: Decimal | None = None,
    effort: int = EFFORT,
    seed: int = 0,
) -> Prediction:
    """Play *steps*, each after its parents, with so many *slots*; *caps*: how many places each limit has.

    *effort*: how many attempts are played in all, as far as a few rounds allow.
    """
    board = _Board(steps, pools, max(1, slots), caps or {})
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(effort / board.attempts())))
    played = [board.play(random.Random(f"{seed}/{number}")) for number in range(rounds)]  # noqa: S311 - no secret
    middle = sorted(range(rounds), key=lambda number: played[number].took)[_place(0.5, rounds)]
    trace = _Trace()
    board.play(random.Random(f"{seed}/{middle}"), trace)  # noqa: S311
    costs = [one.usd for one in played]
    return Prediction(
        tasks=len(steps),
        slots=slots,
        rounds=rounds,
        duration=Durations(*(_time(at) for at in _spread(one.took for one in played))),
        usd=CostRange(*(_dollars(at) for at in _spread(costs))),
        tokens=PredictedCounts(*(round(at) for at in _spread(one.tokens for one in played))),
        unpriced=PredictedCounts(*(round(at) for at in _spread(one.unpriced for one in played))),
        path=_path(steps, trace),
        kinds=_kinds(steps, pools),
        untimed=tuple(dict.fromkeys(pool.kind for pool in pools if not pool.timed)),
        uncosted=tuple(dict.fromkeys(pool.kind for pool in pools if not pool.priced)),
        failing=sum(one.failed for one in played) / rounds,
        budget=budget,
        within_budget=None if budget is None else sum(cost <= float(budget) for cost in costs) / rounds,
    )


class _Board:
    """The graph as numbers, made once for all rounds."""

    def __init__(
        self, steps: Sequence[SimulatedStep], pools: Sequence[SimulatedWorkers], slots: int, caps: Mapping[str, int]
    ) -> None:
        self.steps, self.slots = steps, slots
        self.children: list[list[int]] = [[] for _ in steps]
        for number, step in enumerate(steps):
            for parent in step.parents:
                self.children[parent].append(number)
        self.waits = [len(step.parents) for step in steps]
        self.limits = [tuple(name for name in step.limits if name in caps) for step in steps]
        self.caps = {name: caps[name] for name in {name for names in self.limits for name in names}}
        self.order = sorted(range(len(steps)), key=lambda number: (-steps[number].priority, number))
        self.rank = [0] * len(steps)
        for rank, number in enumerate(self.order):
            self.rank[number] = rank
        self.left = [min(step.attempts, _MOST_REPEATED) for step in steps]
        self.longest = [math.inf if step.timeout is None else step.timeout.total_seconds() for step in steps]
        self.earliest = [step.earliest.total_seconds() for step in steps]
        self.pools = [step.pool for step in steps]
        self.doubts = [pool.doubt for pool in pools]
        self.draws = [
            [
                (one.took.total_seconds(), float(one.usd or 0), one.tokens, one.unpriced, one.completed)
                for one in pool.samples
            ]
            for pool in pools
        ]

    def attempts(self) -> float:
        """How many a round has, about."""
        failing = [1 - sum(draw[4] for draw in draws) / len(draws) for draws in self.draws]
        return sum(
            left if share == 1 else (1 - share**left) / (1 - share)
            for share, left in ((failing[pool], left) for pool, left in zip(self.pools, self.left, strict=True))
        )

    def play(self, chance: random.Random, trace: _Trace | None = None) -> _Round:
        """One round."""
        return _Play(self, chance, trace).round()


class _Play:
    """One round as it goes: who is ready, who runs until when, and who waits for a place of a limit."""

    def __init__(self, board: _Board, chance: random.Random, trace: _Trace | None) -> None:
        self.board, self.chance, self.trace = board, chance, trace
        self.now, self.free = 0.0, board.slots
        self.room = dict(board.caps)
        self.waiting: dict[str, list[int]] = {name: [] for name in board.caps}
        self.waits, self.left = list(board.waits), list(board.left)
        self.ready: list[int] = []
        self.coming: list[tuple[float, int]] = []  # ends of attempts; ~number: a task may begin
        self.running: dict[int, tuple[float, float, float]] = {}  # since when, how long, dollars
        self.over: set[int] = set()
        self.succeeds = [True] * len(board.steps)
        self.result = _Round(0.0, 0.0, 0.0, 0.0, failed=False)
        # Few samples may be off as a whole, in how long and in how dear.
        self.slower = [math.exp(chance.gauss(0, doubt)) for doubt in board.doubts]
        self.dearer = [math.exp(chance.gauss(0, doubt)) for doubt in board.doubts]

    def round(self) -> _Round:
        for number, waits in enumerate(self.waits):
            if not waits:
                self._may_begin(number)
        heapify(self.ready)
        while True:
            while self.ready and self.free:
                self._begin(self.board.order[heappop(self.ready)])
            if not self.coming:
                return self.result
            self.now, number = heappop(self.coming)
            if number < 0:
                heappush(self.ready, self.board.rank[~number])
            elif number not in self.over:
                self._end(number)

    def _may_begin(self, number: int) -> None:
        if self.trace is not None:
            self.trace.ready[number] = self.now
        if self.board.earliest[number] > self.now:
            heappush(self.coming, (self.board.earliest[number], ~number))
        else:
            heappush(self.ready, self.board.rank[number])

    def _begin(self, number: int) -> None:
        board = self.board
        if limits := board.limits[number]:
            full = next((name for name in limits if not self.room[name]), None)
            if full is not None or number in self.over:
                if full is not None and number not in self.over:
                    heappush(self.waiting[full], board.rank[number])
                for name in limits:  # the place that it does not take is the next one's
                    if self.room[name]:
                        self._next_of(name)
                return
            for name in limits:
                self.room[name] -= 1
        elif number in self.over:
            return
        self.free -= 1
        pool = board.pools[number]
        draws = board.draws[pool]
        seconds, dollars, tokens, unpriced, self.succeeds[number] = draws[int(self.chance.random() * len(draws))]
        took = min(seconds * self.slower[pool], board.longest[number])
        dearer = self.dearer[pool]
        self.running[number] = (self.now, took, dollars * dearer)
        self.result.usd += dollars * dearer
        self.result.tokens += tokens * dearer
        self.result.unpriced += unpriced
        if self.trace is not None:
            self.trace.begun.setdefault(number, self.now)
        heappush(self.coming, (self.now + took, number))

    def _next_of(self, name: str) -> None:
        if self.waiting[name]:
            heappush(self.ready, heappop(self.waiting[name]))

    def _leave(self, number: int) -> None:
        self.free += 1
        del self.running[number]
        for name in self.board.limits[number]:
            self.room[name] += 1
            self._next_of(name)

    def _end(self, number: int) -> None:
        self._leave(number)
        self.left[number] -= 1
        if not self.succeeds[number] and self.left[number] > 0:
            step = self.board.steps[number]
            failed = self.board.left[number] - self.left[number]
            heappush(self.coming, (self.now + _pause(step.backoff, failed), ~number))
            return
        self.result.failed |= not self.succeeds[number]
        self.result.took = self.now
        self.over.add(number)
        if self.trace is not None:
            self.trace.ended[number] = self.now
        for child in self.board.children[number]:
            self.waits[child] -= 1
            if self.board.steps[child].first:
                self._chosen(child, by=number)
            elif not self.waits[child]:
                self._may_begin(child)

    def _chosen(self, child: int, *, by: int) -> None:
        """One of its parents is through: the others are stopped, and what they had spent by then is spent."""
        parents = self.board.steps[child].parents
        if not self.succeeds[by] and self.waits[child]:
            return  # another one may still pass
        for other in parents:
            if other in self.over:
                continue
            self.over.add(other)
            if other in self.running:
                since, took, dollars = self.running[other]
                if took:
                    self.result.usd -= dollars * (1 - (self.now - since) / took)
                self._leave(other)
        self.waits[child] = -len(parents)  # whoever else ends, it has begun
        self._may_begin(child)


def _pause(backoff: Backoff, failed: int) -> float:
    most = backoff.maximum.total_seconds()
    try:
        return min(backoff.initial.total_seconds() * backoff.factor ** (failed - 1), most)
    except OverflowError:
        return most


def _path(steps: Sequence[SimulatedStep], trace: _Trace) -> tuple[PredictedStep, ...]:
    """From the task that ended last, back over what it waited for the longest."""
    legs: list[PredictedStep] = []
    number: int | None = max(trace.ended, key=lambda each: (trace.ended[each], each), default=None)
    while number is not None:
        ready, begun, ended = trace.ready[number], trace.begun[number], trace.ended[number]
        legs.append(PredictedStep(steps[number].key, _time(ended - begun), _time(begun - ready)))
        before = [parent for parent in steps[number].parents if trace.ended.get(parent, math.inf) <= ready]
        number = max(before, key=lambda each: (trace.ended[each], -each), default=None)
    return tuple(reversed(legs))


def _kinds(steps: Sequence[SimulatedStep], pools: Sequence[SimulatedWorkers]) -> tuple[JobTypePrediction, ...]:
    tasks: Counter[str] = Counter(pools[step.pool].kind for step in steps)
    by_kind: dict[str, list[SimulatedWorkers]] = {}
    for pool in pools:
        by_kind.setdefault(pool.kind, []).append(pool)
    return tuple(_kind(kind, tasks[kind], same) for kind, same in by_kind.items())


def _kind(kind: str, tasks: int, pools: Sequence[SimulatedWorkers]) -> JobTypePrediction:
    samples = [one for pool in pools for one in pool.samples]
    seconds = _spread(one.took.total_seconds() for one in samples)[1]
    dollars = _spread(float(one.usd or 0) for one in samples)[1]
    unknown = not all(pool.priced for pool in pools) or (not dollars and any(one.unpriced for one in samples))
    return JobTypePrediction(
        kind,
        tasks,
        measured=sum(pool.measured for pool in pools),
        source=pools[0].source,
        took=timedelta(seconds=seconds) if all(pool.timed for pool in pools) else None,
        usd=None if unknown else _dollars(dollars),
    )


def _spread(values: Iterable[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    low, middle, high = (ordered[_place(share, len(ordered))] for share in (0.1, 0.5, 0.9))
    return low, middle, high


def _place(share: float, number: int) -> int:
    return round(share * (number - 1))


def _time(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, _LONGEST))


def _dollars(amount: float) -> Decimal:
    return Decimal(f"{max(0.0, amount):.6f}")
