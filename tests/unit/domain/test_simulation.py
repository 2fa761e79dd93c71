"""Test simulated plans: never faster than their work allows, and never slower than a greedy schedule."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordination.domain.forecast.predictions import Prediction
from coordination.domain.forecast.simulation import SamplePool, SimulatedTask, simulate
from coordination.domain.money.estimates import JobSample
from coordination.domain.tasks.retry import Backoff

SURE = 10**12  # number of observed attempts: no correction


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def sample(
    took: float, usd: str | None = "0", tokens: int = 0, *, unpriced: int = 0, completed: bool = True
) -> JobSample:
    return JobSample(None if usd is None else Decimal(usd), tokens, unpriced, seconds(took), completed)


def pool(*samples: JobSample | float, measured: int = SURE, kind: str = "shell:make") -> SamplePool:
    created = tuple(one if isinstance(one, JobSample) else sample(one) for one in samples)
    return SamplePool(kind, created, "history", measured)


def played(steps: list[SimulatedTask], *pools: SamplePool, slots: int = 99, **more: object) -> Prediction:
    return simulate(steps, pools or [pool(1.0)], slots=slots, **more)  # type: ignore[arg-type]


def took(found: Prediction) -> float:
    return round(found.duration.p50.total_seconds(), 3)


def steps(*parents: tuple[int, ...], **fields: object) -> list[SimulatedTask]:
    return [SimulatedTask(f"t{number}", 0, of, **fields) for number, of in enumerate(parents)]  # type: ignore[arg-type]


class TestOrder:
    def test_a_chain_takes_as_long_as_all_of_it(self):
        assert took(played(steps((), (0,), (1,)))) == 3

    def test_what_is_independent_runs_at_once_as_far_as_there_are_slots(self):
        assert took(played(steps(*[()] * 10))) == 1
        assert took(played(steps(*[()] * 10), slots=4)) == 3
        assert took(played(steps(*[()] * 10), slots=1)) == 10

    def test_a_higher_priority_goes_first(self):
        long, short = pool(10.0), pool(1.0)
        late = [*[SimulatedTask(f"s{number}", 1) for number in range(10)], SimulatedTask("long", 0)]
        first = [*late[:-1], SimulatedTask("long", 0, priority=1)]

        assert took(played(late, long, short, slots=2)) == 15
        assert took(played(first, long, short, slots=2)) == 10

    def test_what_comes_last_ends_the_path_though_it_takes_no_time(self):
        prediction = played(
            [SimulatedTask("a", 0), SimulatedTask("b", 0), SimulatedTask("c", 1, (0, 1))], pool(1.0), pool(0.0)
        )

        assert [leg.key for leg in prediction.path] == ["a", "c"]

    def test_limits_hold(self):
        six = [SimulatedTask(f"t{number}", 0, limits=("project", "key:deploy")) for number in range(6)]

        assert took(played(six, caps={"project": 3})) == 2
        assert took(played(six, caps={"project": 3, "key:deploy": 1})) == 6
        assert took(played(six, caps={"key:other": 1})) == 1

    def test_a_place_that_one_task_cannot_use_is_the_next_ones(self):
        both = [SimulatedTask(f"b{number}", 0, limits=("project", "key:deploy"), priority=1) for number in range(3)]
        others = [SimulatedTask(f"o{number}", 0, limits=("project",)) for number in range(3)]

        assert took(played([*both, *others], caps={"project": 2, "key:deploy": 1})) == 3

    def test_nothing_begins_before_its_time(self):
        assert took(played([SimulatedTask("a", 0, earliest=seconds(60)), SimulatedTask("b", 0)])) == 61

    def test_nothing_takes_longer_than_its_timeout(self):
        assert took(played([SimulatedTask("a", 0, timeout=seconds(5))], pool(60.0))) == 5


class TestRepeats:
    def test_failed_samples_repeat_the_job_after_its_wait(self):
        always = pool(sample(1, "0.5", completed=False))
        wait = Backoff(initial=seconds(10), factor=2, maximum=seconds(15))

        prediction = played([SimulatedTask("a", 0, attempts=3, backoff=wait)], always)

        assert took(prediction) == 1 + 10 + 1 + 15 + 1
        assert prediction.usd.p50 == Decimal("1.5")
        assert prediction.failing == 1

    def test_their_share_says_how_often(self):
        half = pool(sample(1), sample(1, completed=False))

        once, twice = (played([SimulatedTask("a", 0, attempts=tries)], half, effort=10**9) for tries in (1, 2))

        assert 0.4 < once.failing < 0.6
        assert 0.2 < twice.failing < 0.3

    def test_a_million_attempts_are_not_played(self):
        always = pool(sample(1, completed=False))

        assert played([SimulatedTask("a", 0, attempts=1_000_000, backoff=Backoff(factor=1000))], always).failing == 1

    def test_a_slot_is_free_while_one_waits(self):
        once = [SimulatedTask("a", 0, attempts=2, backoff=Backoff(initial=seconds(10))), SimulatedTask("b", 1)]

        assert took(played(once, pool(sample(1, completed=False)), pool(5.0), slots=1)) == 12


class TestVariants:
    def test_the_first_one_through_stops_the_others(self):
        racers = [
            SimulatedTask("v1", 0),
            SimulatedTask("v2", 1),
            SimulatedTask("chosen", 2, (0, 1), first=True),
            SimulatedTask("after", 2, (2,)),
        ]

        prediction = played(racers, pool(sample(10, "1")), pool(sample(40, "4")), pool(1.0))

        assert took(prediction) == 12
        assert prediction.usd.p50 == Decimal(2), "a quarter of what the other one would have cost"
        assert [leg.key for leg in prediction.path] == ["v1", "chosen", "after"]

    def test_one_that_fails_stops_nobody(self):
        racers = [SimulatedTask("v1", 0), SimulatedTask("v2", 1), SimulatedTask("chosen", 2, (0, 1), first=True)]

        prediction = played(racers, pool(sample(10, completed=False)), pool(40.0), pool(1.0))

        assert took(prediction) == 41

    def test_when_all_fail_it_goes_on_all_the_same(self):
        racers = [SimulatedTask("v1", 0), SimulatedTask("v2", 0), SimulatedTask("chosen", 1, (0, 1), first=True)]

        prediction = played(racers, pool(sample(10, completed=False)), pool(1.0))

        assert (took(prediction), prediction.failing) == (11, 1)

    def test_those_that_still_waited_never_run(self):
        racers = [
            *[SimulatedTask(f"v{number}", 0, limits=("agent:bo",)) for number in range(4)],
            SimulatedTask("chosen", 1, (0, 1, 2, 3), first=True),
        ]
        other = SimulatedTask("other", 0, limits=("agent:bo",), priority=-1)

        prediction = played([*racers, other], pool(sample(10, "1")), pool(0.0), caps={"agent:bo": 1})

        assert took(prediction) == 20
        assert prediction.usd.p50 == Decimal(2)


class TestMoney:
    def test_what_all_attempts_cost_is_added_up(self):
        prediction = played(steps(*[()] * 8), pool(sample(1, "0.25", 100)))

        assert (prediction.usd.p50, prediction.tokens.p50) == (Decimal(2), 800)

    def test_calls_without_a_price_are_counted_and_in_no_sum(self):
        prediction = played(steps((), ()), pool(sample(1, None, 100, unpriced=2)))

        assert (prediction.usd.p90, prediction.unpriced.p50, prediction.tokens.p50) == (Decimal(0), 4, 200)
        assert [kind.usd for kind in prediction.kinds] == [None]

    def test_the_budget_holds_in_so_many_rounds(self):
        coin = pool(sample(1, "1"), sample(1, "3"))

        assert played(steps(()), coin, budget=Decimal(2), effort=10**9).within_budget == pytest.approx(0.5, abs=0.1)
        assert played(steps(()), coin, budget=Decimal(9)).within_budget == 1
        assert played(steps(()), coin, budget=Decimal(0)).within_budget == 0
        assert played(steps(()), coin).within_budget is None


class TestDoubt:
    def test_one_sample_says_little_and_thirty_more(self):
        def width(measured: int) -> float:
            prediction = played(steps(()), pool(100.0, measured=measured), effort=10**9).duration
            return prediction.p90 / prediction.p10

        assert 2.2 < width(1) < 3.6
        assert 1.1 < width(32) < 1.35
        assert width(SURE) == pytest.approx(1)

    def test_it_is_of_all_jobs_of_a_kind_together(self):
        """Widen the interval for all jobs together: one sample's error does not average out over a hundred jobs."""
        prediction = played(steps(*[()] * 100), pool(100.0, measured=1), slots=1, effort=10**9).duration

        assert prediction.p90 / prediction.p10 > 2.2

    def test_the_same_seed_gives_the_same_answer(self):
        graph = steps(*[()] * 20)
        doubtful = pool(1.0, 2.0, 3.0, measured=3)

        assert played(graph, doubtful, slots=3, seed=7) == played(graph, doubtful, slots=3, seed=7)
        assert played(graph, doubtful, slots=3, seed=7) != played(graph, doubtful, slots=3, seed=8)


class TestKinds:
    def test_pools_of_one_kind_are_one_line(self):
        two = [pool(1.0, measured=1), pool(3.0, measured=2), pool(9.0, kind="shell:ls", measured=1)]

        prediction = played([SimulatedTask("a", 0), SimulatedTask("b", 1), SimulatedTask("c", 2)], *two)

        assert [(kind.kind, kind.tasks, kind.measured) for kind in prediction.kinds] == [
            ("shell:make", 2, 3),
            ("shell:ls", 1, 1),
        ]

    def test_what_is_not_known_is_said(self):
        strange = SamplePool("shell:new", (sample(0),), "unknown", timed=False)
        free = SamplePool("agent:new", (sample(0),), "unknown", priced=False)

        prediction = played([SimulatedTask("a", 0), SimulatedTask("b", 0), SimulatedTask("c", 1)], strange, free)

        assert (prediction.untimed, prediction.uncosted) == (("shell:new",), ("agent:new",))
        assert (prediction.kinds[0].took, prediction.kinds[1].usd) == (None, None)


@st.composite
def graphs(draw):
    number = draw(st.integers(1, 25))
    created = []
    for each in range(number):
        parents = draw(st.lists(st.integers(0, each - 1), unique=True, max_size=4)) if each else []
        created.append(SimulatedTask(f"t{each}", each, tuple(parents), draw(st.integers(-2, 2))))
    lengths = draw(st.lists(st.integers(0, 50), min_size=number, max_size=number))
    return created, lengths


class TestSchedules:
    @settings(max_examples=60, deadline=None)
    @given(graphs(), st.integers(1, 6))
    def test_no_schedule_is_faster_than_the_work_or_slower_than_a_greedy_one(self, graph, slots):
        created, lengths = graph
        longest: list[int] = []
        for step, length in zip(created, lengths, strict=True):
            longest.append(length + max((longest[parent] for parent in step.parents), default=0))
        path, work = max(longest), sum(lengths)

        result = simulate(created, [pool(float(length)) for length in lengths], slots=slots, effort=1)

        end = result.duration.p50.total_seconds()
        assert max(path, work / slots) <= end * 1.0001 + 1e-6
        assert end <= (work / slots + path * (1 - 1 / slots)) * 1.0001 + 1e-6, "Graham's bound"
        assert sum((leg.took + leg.waited for leg in result.path), timedelta(0)).total_seconds() == pytest.approx(end)
        keys = [leg.key for leg in result.path]
        for before, after in itertools.pairwise(keys):
            assert int(before[1:]) in created[int(after[1:])].parents
        if slots > len(created):
            assert end == pytest.approx(path, rel=1e-4, abs=1e-6)

    @settings(max_examples=40, deadline=None)
    @given(graphs(), st.integers(1, 4), st.integers(1, 3))
    def test_limits_delay_and_lose_nothing(self, graph, slots, cap):
        created, lengths = graph
        limited = [
            SimulatedTask(
                one.key,
                one.pool,
                one.parents,
                one.priority,
                limits=("project", "key:a") if one.pool % 2 else ("project",),
            )
            for one in created
        ]
        odd = sum(length for number, length in enumerate(lengths) if number % 2)

        pools = [pool(sample(length, "1")) for length in lengths]
        result = simulate(limited, pools, slots=slots, caps={"project": cap, "key:a": 1}, effort=1)

        end = result.duration.p50.total_seconds() * 1.0001 + 1e-6
        assert end >= max(sum(lengths) / min(slots, cap), odd)
        assert end <= sum(lengths) * 1.001 + 1e-5
        assert result.usd.p50 == pytest.approx(Decimal(len(created)), abs=Decimal("0.001")), "each ran once"

    def test_ten_thousand_tasks_are_played_in_a_few_seconds(self):
        kinds = [pool(*(float(number) for number in range(1, 33)), measured=32, kind=f"k{each}") for each in range(5)]
        large = [
            SimulatedTask(
                f"t{each}", each % 5, (each // 2, each // 3) if each > 3 else (), attempts=2, limits=("project",)
            )
            for each in range(10_000)
        ]
        began = time.process_time()

        result = simulate(large, kinds, slots=32, caps={"project": 30})

        assert time.process_time() - began < 10
        assert result.rounds >= 21
        assert result.duration.p10 <= result.duration.p50 <= result.duration.p90

    def test_ages_do_not_overflow(self):
        ages = pool(sample(3650 * 86400, "1000000000000", 10**15, completed=False), measured=1)

        prediction = played([SimulatedTask(f"t{each}", 0, attempts=1_000_000) for each in range(500)], ages, slots=1)

        assert prediction.duration.p90 > timedelta(days=3650)
        assert prediction.to_json()["duration"][2] > 0
