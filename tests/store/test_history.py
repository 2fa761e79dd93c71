"""Test samples of a job kind's cost: bounded, written concurrently, and without waits."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from coordination.domain.money.estimates import MAX_SAMPLES, JobSample
from coordination.domain.tasks.attempts import Outcome, Usage
from coordination.store.engine import Store, open_store
from coordination.store.queries.forecast import job_history
from tests.support.world import World, watched

LONG = timedelta(minutes=1)
AGENT = {"run": {"agent": "claude", "model": "haiku", "prompt": "Mend it"}}
KEY = "agent:claude:haiku"


def sample(number: int) -> JobSample:
    return JobSample(Decimal(number), number, 0, timedelta(seconds=number), completed=True)


@pytest.fixture
def shop(world: World) -> World:
    world.submit("a")
    return world


def learn(world: World, **learnt: list[JobSample]) -> None:
    world.store.transact(lambda tx: job_history.learn(tx, world.workspace, world.project_id, learnt))


def samples(world: World, *keys: str) -> dict[str, tuple[JobSample, ...]]:
    with world.store.read() as tx:
        stored = job_history.samples_of(tx, world.workspace, [(world.project_id, key) for key in keys])
    return {key: kept for (_, key), kept in stored.items()}


def counts(world: World) -> dict[str, int]:
    return {row.kind: row.ended for row in world.sql("SELECT kind, ended FROM job_history")}


class TestKeeping:
    def test_samples_are_found_by_project_and_kind(self, shop: World) -> None:
        learn(shop, one=[sample(1), sample(2)], two=[sample(3)])
        learn(shop, two=[sample(4)], three=[sample(5)])

        assert samples(shop, "one", "two", "none", "one") == {
            "one": (sample(1), sample(2)),
            "two": (sample(3), sample(4)),
        }
        assert counts(shop) == {"one": 2, "two": 2, "three": 1}

    def test_only_the_latest_are_kept(self, shop: World) -> None:
        for start in range(0, 100, 20):
            learn(shop, one=[sample(number) for number in range(start, start + 20)])

        assert samples(shop, "one")["one"] == tuple(sample(number) for number in range(100 - MAX_SAMPLES, 100))
        assert counts(shop) == {"one": 100}

    def test_other_projects_and_workspaces_have_their_own(self, shop: World) -> None:
        other = World(shop.store, "other")
        other.submit("a")
        learn(shop, one=[sample(1)])
        learn(other, one=[sample(2)])

        assert samples(shop, "one") == {"one": (sample(1),)}
        assert samples(other, "one") == {"one": (sample(2),)}

    def test_garbage_in_the_store_costs_no_job_its_end(self, shop: World) -> None:
        learn(shop, one=[sample(1)])
        shop.sql("UPDATE job_history SET samples = '[5, {\"x\": null}]'")

        assert samples(shop, "one") == {"one": ()}
        learn(shop, one=[sample(2)])
        assert samples(shop, "one") == {"one": (sample(2),)}

    def test_names_that_no_database_holds_are_kept_all_the_same(self, shop: World) -> None:
        learn(shop, **{"agent:\0\ud800": [sample(1)]})

        assert list(samples(shop, "agent:\0\ud800").values()) == [(sample(1),)]

    def test_thousands_of_kinds_are_asked_for_in_one_statement(self, shop: World) -> None:
        learn(shop, one=[sample(1)])

        with watched(shop.store) as seen:
            stored = samples(shop, *(f"kind-{number}" for number in range(20_000)), "one")

        assert stored == {"one": (sample(1),)}
        assert len({id(values) for statement, values in seen if "job_history" in statement}) == 1

    def test_nothing_is_asked_for_nothing(self, shop: World) -> None:
        with watched(shop.store) as seen:
            assert samples(shop) == {}
            learn(shop)

        assert not [each for each in seen if "job_history" in each[0]]


class TestForgetting:
    def test_kinds_that_have_not_run_for_long_are_forgotten_a_few_at_a_time(self, shop: World) -> None:
        learn(shop, old=[sample(1)], older=[sample(2)], new=[sample(3)])
        then = datetime.now(UTC) - timedelta(days=99)
        moment = then if shop.store.dialect == "postgresql" else then.isoformat(timespec="microseconds")
        shop.sql("UPDATE job_history SET updated_at = :then WHERE kind <> 'new'", then=moment)
        age = timedelta(days=90)

        def forget() -> int:
            return shop.store.transact(lambda tx: job_history.forget(tx, shop.workspace, age=age, limit=1))

        with shop.store.read() as tx:
            assert job_history.count_unused(tx, shop.workspace, age=age) == 2
        assert [forget(), forget(), forget()] == [1, 1, 0]
        assert counts(shop) == {"new": 1}


class TestEndedAttempts:
    def test_an_agent_teaches_what_it_cost(self, world: World) -> None:
        world.submit("fix", "again", tasks={"fix": AGENT, "again": {**AGENT, "max_attempts": 1}})
        world.claim("fix", "again")
        used = (Usage("haiku", 100, 20, cost_usd=Decimal("0.5")), Usage("new", 7))

        world.write(
            world.decide("fix", took=LONG, usage=used),
            world.decide("again", Outcome.FAILED, took=LONG, error="no"),
        )

        assert samples(world, KEY)[KEY] == (
            JobSample(Decimal("0.5"), 127, 1, LONG, completed=True),
            JobSample(Decimal(0), 0, 0, LONG, completed=False),
        )

    def test_short_jobs_that_cost_nothing_pay_not_one_statement(self, world: World) -> None:
        world.submit("a", "b", "c")
        world.claim("a", "b", "c")

        with watched(world.store) as seen:
            world.write(*(world.decide(key, took=timedelta(seconds=0.5)) for key in ("a", "b")))
        with watched(world.store) as seen_long:
            world.write(world.decide("c", took=LONG))

        assert not [each for each in seen if "job_history" in each[0]]
        assert [each for each in seen_long if "job_history" in each[0]]
        assert samples(world, "shell:true") == {"shell:true": (JobSample(Decimal(0), 0, 0, LONG, completed=True),)}

    def test_an_attempt_that_has_lost_its_task_teaches_nothing(self, world: World) -> None:
        world.submit("fix", tasks={"fix": AGENT})
        world.claim("fix")
        late = world.decide("fix", took=LONG)
        world.finish("fix")
        before = samples(world, KEY)

        world.write(late)

        assert samples(world, KEY) == before

    def test_one_that_never_began_teaches_nothing(self, world: World) -> None:
        world.submit("fix", tasks={"fix": AGENT})
        world.claim("fix")

        world.write(world.decide("fix", Outcome.FAILED, job_started=False, retryable=False))

        assert samples(world, KEY) == {}


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_nobody_waits_for_a_sample(postgres_url: str, *, known: bool) -> None:
    """Check that no transaction waits: one locks the kind; another adds to it and to others, and commits first."""
    store = open_store(postgres_url)
    world = World(store)
    world.submit("a")
    if known:
        learn(world, one=[sample(1)])

    with store.write() as slow:
        job_history.learn(slow, world.workspace, world.project_id, {"one": [sample(2)]})
        with store.write() as quick:
            job_history.learn(quick, world.workspace, world.project_id, {"one": [sample(3)], "two": [sample(4)]})
        assert samples(world, "two") == {"two": (sample(4),)}, "committed while the other one still holds its row"

    assert samples(world, "one") == {"one": (sample(1), sample(2)) if known else (sample(2),)}
    store.close()


def test_a_race_loses_no_more_than_samples(store: Store) -> None:
    world = World(store)
    world.submit("a")
    gate, threads, rounds = threading.Barrier(8), [], 15
    failed: list[BaseException] = []

    def work(number: int) -> None:
        gate.wait()
        try:
            for turn in range(rounds):
                mine = sample(number * 1_000 + turn)
                learn(world, shared=[mine], **{f"own-{number}": [mine], f"new-{turn}": [mine]})
        except BaseException as error:  # noqa: BLE001 - reported below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    stored = samples(world, "shared", *(f"own-{number}" for number in range(8)), *(f"new-{turn}" for turn in range(15)))
    for number in range(8):
        assert stored[f"own-{number}"] == tuple(sample(number * 1_000 + turn) for turn in range(rounds))
    shared = [one.tokens for one in stored["shared"]]
    for number in range(8):
        mine = [one for one in shared if one // 1_000 == number]
        assert mine == sorted(set(mine)), "each at most once, in the order in which it was learnt"
    report = counts(world)
    for key, kept in stored.items():
        assert len(kept) == min(MAX_SAMPLES, report[key])
        assert report[key] <= 8 * rounds
    if store.dialect == "sqlite":  # one writer at a time: no other transaction has a lock
        assert report["shared"] == 8 * rounds
