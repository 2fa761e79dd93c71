"""Builds the tasks and sample pools of a simulation from a plan and the history of its kinds of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from coordination.base.money import ZERO
from coordination.domain.forecast import simulation
from coordination.domain.forecast.predictions import Prediction
from coordination.domain.forecast.simulation import SamplePool, SimulatedTask
from coordination.domain.jobs import ChatCall, job_class
from coordination.domain.money.estimates import (
    NONE,
    PLAN,
    PRICE,
    JobSample,
    QuoteModel,
    estimate,
    history_key,
    parse_estimate,
)
from coordination.domain.plans.plan_expansion import CHOOSE
from coordination.domain.plans.plans import Plan, Task, upstream_keys

HISTORY, RECENT, ASSUMED, UNKNOWN = "history", "recent runs", "assumed", "unknown"
"""The sources of durations, besides the plan."""

_SHARES = (Decimal("0.25"), Decimal("0.5"), Decimal("0.75"), Decimal(1))
"""The assumed shares that a job uses of its maximum, without samples."""


class ForecastInputs:
    """A plan with the jobs and agents of its tasks, by task key, and samples of such jobs.

    *known*: samples by history_key. *recent*: the same without costs, but including short jobs.
    """

    def __init__(
        self,
        plan: Plan,
        bodies: Mapping[str, Mapping[str, Any]],
        agents: Mapping[str, str],
        *,
        known: Mapping[str, Sequence[JobSample]],
        recent: Mapping[str, Sequence[JobSample]],
        quote: QuoteModel,
        assume: timedelta | None = None,
    ) -> None:
        self._plan = plan
        self._agents = agents
        self._known, self._recent = known, recent
        self._quote, self._assume = quote, assume
        self._pools: list[SamplePool] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._bodies = bodies
        self._keys: dict[int, str] = {}
        self._samples: dict[str, tuple[tuple[JobSample, ...], str]] = {}

    def predict(
        self, *, slots: int, caps: Mapping[str, int], now: datetime, effort: int = simulation.EFFORT, seed: int = 0
    ) -> Prediction:
        """Simulate the plan with that many slots; *caps*: the concurrency limits of the project, agents and keys."""
        numbers = {task.key: number for number, task in enumerate(self._plan.tasks)}
        tasks = [self._task(task, numbers, now) for task in self._plan.tasks]
        budget = None if self._plan.budget is None else self._plan.budget.usd
        return simulation.simulate(tasks, self._pools, slots=slots, caps=caps, budget=budget, effort=effort, seed=seed)

    def _task(self, task: Task, numbers: Mapping[str, int], now: datetime) -> SimulatedTask:
        defaults = self._plan.defaults
        limits = ["project"]
        if (agent := self._agents.get(task.key)) is not None:
            limits.append(f"agent:{agent}")
        if task.concurrency_key is not None:
            limits.append(f"key:{task.concurrency_key}")
        return SimulatedTask(
            task.key,
            self._pool(task),
            tuple(numbers[key] for key in upstream_keys(task.needs) if key in numbers),
            task.priority,
            task.max_attempts if task.max_attempts is not None else defaults.max_attempts,
            tuple(limits),
            task.backoff or defaults.backoff,
            timedelta(0) if task.not_before is None else max(timedelta(0), task.not_before - now),
            task.timeout or defaults.timeout,
            first=CHOOSE in task.role,
        )

    def _pool(self, task: Task) -> int:
        """Return the number of the pool from which attempts of the task are drawn."""
        body = self._bodies[task.key]
        key = self._keys.get(id(body))
        if key is None:
            key = self._keys[id(body)] = history_key(body)
        samples, source = self._samples.get(key) or self._samples.setdefault(key, self._samples_of(key))
        stated = parse_estimate(task.estimate) if task.estimate and not samples else {}
        # Without samples, the pool depends on the job itself: chats have prompts of different lengths.
        name: tuple[Any, ...] = (key,)
        if not samples:
            name = (key, tuple(sorted(stated.items())), id(body) if job_class(body) is ChatCall else None)
        number = self._numbers.setdefault(name, len(self._pools))
        if number == len(self._pools):
            pool = SamplePool(key, samples, source, len(samples)) if samples else None
            self._pools.append(pool or self._assumed_pool(task, key, body, stated))
        return number

    def _samples_of(self, key: str) -> tuple[tuple[JobSample, ...], str]:
        """Return the samples of a kind and their source. For free jobs, those of the latest runs."""
        known, recent = self._known.get(key, ()), self._recent.get(key, ())
        if recent and not any(one.usd or one.tokens or one.unpriced for one in known):
            return tuple(recent), RECENT
        return (tuple(known) if any(one.is_informative for one in known) else ()), HISTORY

    def _assumed_pool(self, task: Task, key: str, body: Mapping[str, Any], stated: Mapping[str, Any]) -> SamplePool:
        """Return the pool of a kind without samples."""
        if CHOOSE in task.role:  # only copies the result of a variant
            return SamplePool(key, (_sample(timedelta(0)),), NONE)
        took, source = self._duration(stated)
        expected = estimate(body, (), stated=stated, quote=self._quote)
        shares = _SHARES if expected.source == PRICE else (Decimal(1),)
        samples = [
            _sample(took, expected.usd * share, int(expected.tokens * share), expected.unpriced) for share in shares
        ]
        priced = expected.source in (PLAN, PRICE, NONE)
        return SamplePool(key, tuple(samples), source, timed=source != UNKNOWN, priced=priced)

    def _duration(self, stated: Mapping[str, Any]) -> tuple[timedelta, str]:
        if "duration" in stated:
            return timedelta(seconds=stated["duration"]), PLAN
        if self._assume is not None:
            return self._assume, ASSUMED
        return timedelta(0), UNKNOWN


def _sample(took: timedelta, usd: Decimal = ZERO, tokens: int = 0, unpriced: int = 0) -> JobSample:
    return JobSample(usd, tokens, unpriced, took, completed=True)
