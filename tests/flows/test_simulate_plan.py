"""Test predictions for a plan: from samples, latest runs, the plan itself and prices; and what a run stores of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from coordination.base.errors import PlanError
from coordination.domain.forecast.predictions import Prediction
from coordination.domain.money.estimates import JobSample
from coordination.domain.plans.plans import BudgetCap, Concurrency, Plan, Supervision
from coordination.domain.tasks.attempts import Usage
from coordination.flows.forecast.simulate_plan import simulate_plan
from coordination.flows.plans.submit_plan import MOST_SIMULATED
from coordination.store.queries.forecast import job_history
from coordination.store.queries.tasks import runs
from tests.support.refusals import refuses
from tests.support.world import World, plan_of, watched

MINUTE = timedelta(minutes=1)
AGENT = {"run": {"agent": "claude", "model": "haiku", "prompt": "Mend it"}}
KEY = "agent:claude:haiku"
MAKE = {"run": {"shell": "make test"}}


def learn(world: World, key: str, *minutes: float, usd: str = "0.5") -> None:
    created = [JobSample(Decimal(usd), 1_000, 0, MINUTE * number, completed=True) for number in minutes]
    world.store.transact(lambda tx: job_history.learn(tx, world.workspace, world.project_id, {key: created}))


def simulated(world: World, plan: Plan, **more: Any) -> Prediction:
    with world.store.read() as tx:
        predict = simulate_plan(
            tx,
            world.workspace,
            plan,
            world.project,
            **{"slots": None, "live_within": MINUTE, "default_slots": 3, **more},
        )
    return predict()


def minutes(found: timedelta | None) -> int:
    assert found is not None
    return round(found / MINUTE)


@pytest.fixture
def shop(world: World) -> World:
    world.submit("a")
    return world


class TestSources:
    def test_jobs_like_those_before_take_and_cost_as_much(self, shop: World) -> None:
        learn(shop, KEY, *[5] * 32)

        prediction = simulated(shop, plan_of("fix", "more < fix", tasks={"fix": AGENT, "more": AGENT}))

        assert minutes(prediction.duration.p50) in range(9, 12)
        assert prediction.usd.p10 < 1 < prediction.usd.p90
        assert [(kind.kind, kind.tasks, kind.measured, kind.source) for kind in prediction.kinds] == [
            (KEY, 2, 32, "history")
        ]
        assert [leg.key for leg in prediction.path] == ["fix", "more"]
        assert (prediction.untimed, prediction.uncosted) == ((), ())

    def test_a_project_that_does_not_exist_yet_has_no_history(self, world: World) -> None:
        prediction = simulated(world, plan_of("fix", "b < fix", tasks={"fix": AGENT}))

        assert (prediction.untimed, prediction.uncosted) == ((KEY, "shell:true"), (KEY,))
        assert prediction.duration.p90 == timedelta(0)

    def test_what_is_assumed_or_said_in_the_plan_counts_where_nothing_is_known(self, shop: World) -> None:
        learn(shop, KEY, *[5] * 32)
        text = {"estimate": {"usd": 2, "tokens": 10, "duration": "30m"}}
        plan = plan_of(
            "fix", "say < fix", "b < say", tasks={"fix": {**AGENT, **text}, "say": {**MAKE, **text}, "b": MAKE}
        )

        prediction = simulated(shop, plan, assume=timedelta(minutes=2))

        names = {(kind.kind, kind.source): minutes(kind.took) for kind in prediction.kinds}
        assert names[KEY, "history"] == 5, "what was seen goes before what is said"
        assert (prediction.untimed, prediction.uncosted) == ((), ())
        assert 20 < minutes(prediction.duration.p50) < 60
        assert prediction.usd.p50 > 1

    def test_short_jobs_take_what_those_of_the_latest_runs_took(self, shop: World) -> None:
        shop.submit("one", "two", tasks={"one": MAKE, "two": MAKE})
        shop.do("one", "two")
        shop.sql("UPDATE attempts SET started_at = :then", then=_ago(shop, 10))

        prediction = simulated(shop, plan_of("b", tasks={"b": MAKE}))

        (kind,) = prediction.kinds
        assert (kind.source, kind.measured, kind.took) == (
            "recent runs",
            2,
            pytest.approx(timedelta(seconds=10), abs=MINUTE),
        )
        assert kind.took > timedelta(seconds=9)
        assert prediction.untimed == ()

    def test_a_chat_with_a_limit_costs_up_to_that(self, shop: World) -> None:
        chat = {"run": {"chat": "openai:gpt-5-mini", "prompt": "Hello", "settings": {"max_tokens": 1_000_000}}}

        prediction = simulated(shop, plan_of("c", tasks={"c": chat}), assume=MINUTE)

        assert Decimal(0) < prediction.usd.p50 < prediction.usd.p90
        assert prediction.uncosted == ()

    def test_a_chat_without_a_price_is_a_call_of_unknown_price(self, shop: World) -> None:
        chat = {"run": {"chat": "house:nobody", "prompt": "Hello", "settings": {"max_tokens": 1_000}}}

        prediction = simulated(shop, plan_of("c", tasks={"c": chat}), assume=MINUTE)

        assert (prediction.usd.p90, prediction.unpriced.p50) == (Decimal(0), 1)
        assert [kind.usd for kind in prediction.kinds] == [None], "unknown, and not zero"


def _ago(world: World, seconds: int) -> Any:
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment if world.store.dialect == "postgresql" else moment.isoformat(timespec="microseconds")


class TestSurroundings:
    def test_so_many_run_at_once_as_living_workers_have_slots(self, shop: World) -> None:
        six = plan_of(*"abcdef", tasks={key: {"estimate": {"duration": 60}, **MAKE} for key in "abcdef"})

        assert simulated(shop, six).slots == 8, "the world's worker"
        assert simulated(shop, six, slots=2).slots == 2
        shop.sql("UPDATE workers SET heartbeat_at = :then", then=_ago(shop, 999))
        assert simulated(shop, six).slots == 3, "of one worker"

    def test_limits_of_the_plan_and_of_the_project_hold(self, shop: World) -> None:
        learn(shop, "shell:make", *[1] * 32)
        keyed = {key: {**MAKE, "concurrency_key": "db"} for key in "abcd"}

        alone = simulated(shop, plan_of(*"abcd", tasks=keyed))
        four = simulated(shop, plan_of(*"abcd", tasks=keyed, concurrency=Concurrency(keys={"db": 4})))
        shop.submit("x", concurrency=Concurrency(project=2))
        two = simulated(shop, plan_of(*"abcd", tasks=dict.fromkeys("abcd", MAKE)))

        assert [minutes(each.duration.p50) for each in (alone, two, four)] == [4, 2, 1]

    def test_variants_and_supervision_are_played_in_their_parts(self, shop: World) -> None:
        learn(shop, KEY, *[5] * 32)

        racing = simulated(shop, plan_of("fix", tasks={"fix": {**AGENT, "variants": 3}}))
        looked_at = simulated(
            shop,
            plan_of("fix", tasks={"fix": AGENT}, supervision=Supervision(assess={"agent": "claude", "model": "haiku"})),
        )

        assert racing.tasks == 4
        assert (racing.untimed, racing.uncosted) == ((), ()), "taking over takes nothing"
        assert looked_at.tasks == 2
        assert minutes(looked_at.duration.p50) in range(9, 12)

    def test_the_plans_own_budget_is_held_against_it(self, shop: World) -> None:
        learn(shop, KEY, *[5] * 32)
        ten = [f"t{number}" for number in range(10)]

        def share(usd: str) -> float | None:
            return simulated(
                shop, plan_of(*ten, tasks=dict.fromkeys(ten, AGENT), budget=BudgetCap(Decimal(usd)))
            ).within_budget

        assert share("50") == 1
        assert share("1") == 0
        assert 0.2 < (share("5") or 0) < 0.8

    def test_a_bad_plan_is_refused_and_nothing_is_stored(self, shop: World) -> None:
        with refuses(PlanError, field="tasks.a.needs"):
            simulated(shop, plan_of("a < a"))
        with refuses(PlanError, field="tasks.a.run.agent"):
            simulated(shop, plan_of("a", tasks={"a": {"run": {"agent": "nobody", "prompt": "x"}}}))


class TestKept:
    def predicted(self, world: World) -> dict[str, Any] | None:
        with world.store.read() as tx:
            result = runs.get(tx, world.workspace, world.run_id)
        assert result is not None
        return result.predicted

    def test_a_run_keeps_what_was_expected_of_it(self, shop: World) -> None:
        learn(shop, KEY, *[5] * 32)

        shop.submit("fix", "b < fix", tasks={"fix": AGENT})

        kept = self.predicted(shop)
        assert kept is not None
        assert 250 < kept["duration"][0] <= kept["duration"][1] <= kept["duration"][2] < 360
        assert Decimal("0.4") < Decimal(kept["usd"][0]) <= Decimal(kept["usd"][2]) < Decimal("0.6")
        assert (kept["slots"], kept["untimed"], kept["uncosted"]) == (8, ["shell:true"], [])

    def test_nothing_is_kept_where_nothing_like_it_has_run(self, world: World) -> None:
        with watched(world.store) as seen:
            world.submit("a")
        assert self.predicted(world) is None
        assert not [each for each in seen if "job_history" in each[0]], "a new project has none"

        with watched(world.store) as seen:
            world.submit("b")

        assert self.predicted(world) is None
        assert len({id(values) for statement, values in seen if "job_history" in statement}) == 1

    def test_a_large_plan_is_stored_without_being_played_through(self, shop: World) -> None:
        learn(shop, "shell:true", 1)

        with watched(shop.store) as seen:
            shop.submit(*(f"t{number}" for number in range(MOST_SIMULATED + 1)))

        assert self.predicted(shop) is None
        assert not [each for each in seen if "job_history" in each[0]]

    def test_a_run_teaches_the_next_one(self, shop: World) -> None:
        for _ in range(3):
            shop.submit("fix", tasks={"fix": AGENT})
            shop.claim("fix")
            shop.write(shop.decide("fix", took=MINUTE, usage=(Usage("haiku", 1, 1, cost_usd=Decimal("0.5")),)))

        shop.submit("fix", tasks={"fix": AGENT})

        kept = self.predicted(shop)
        assert kept is not None
        assert kept["duration"][0] < 60 < kept["duration"][2]
