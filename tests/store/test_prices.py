"""Test prices that people set, and the effect of corrections on every sum of the ledger."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from coordination.domain.money.costs import CostRecord, correction_id
from coordination.domain.money.pricing import Price, PriceOverride, Rate
from coordination.services.money import prices as service
from coordination.services.money.ledger import append_records as recorded
from coordination.services.projects import projects as project_service
from coordination.store.queries.money import costs, prices
from coordination.store.queries.projects import retention
from coordination.store.queries.tasks import runs
from coordination.store.reports.money import spending
from coordination.store.reports.projects import project_summary
from tests.store.test_ledgers import record
from tests.support.world import World

RATES = {"input": "1.25", "output": "10", "cached_input": "0.125", "cache_write": None, "reasoning": None}


def project(world: World, name: str) -> str:
    with world.store.write() as tx:
        return project_service.resolve(tx, world.workspace, identity=f"example.org/{name}", name=name, path=None).id


class TestOverrides:
    def test_one_is_set_replaced_and_taken_back_in_its_own_place(self, world: World) -> None:
        shop = project(world, "shop")
        with world.store.write() as tx:
            service.set_price(tx, world.workspace, "M", RATES, actor="user:ann")
            service.set_price(tx, world.workspace, "m", RATES | {"input": "2.500000000001"}, project_id=shop)
            service.set_price(tx, world.workspace, " m ", RATES | {"input": "3", "cached_input": None}, project_id=None)

        with world.store.write() as tx:
            everywhere, here = prices.list_prices(tx, world.workspace)
            assert (everywhere.model, everywhere.project_id, everywhere.set_by) == ("m", None, None)
            assert everywhere.price == Price(Rate(Decimal(3)), Rate(Decimal(10)))
            assert (here.project_id, here.price.input) == (shop, Rate(Decimal("2.500000000001")))
            assert prices.remove(tx, world.workspace, "m", project_id=shop)
            assert not prices.remove(tx, world.workspace, "m", project_id=shop)
            assert [one.project_id for one in prices.list_prices(tx, world.workspace)] == [None]

    def test_many_who_set_the_same_at_once_leave_one(self, world: World) -> None:
        def set_(number: int) -> None:
            with world.store.write() as tx:
                prices.put(tx, world.workspace, PriceOverride("m", Price(Rate(Decimal(number)), Rate(Decimal(number)))))

        threads = [threading.Thread(target=set_, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        with world.store.read() as tx:
            (one,) = prices.list_prices(tx, world.workspace)
        assert one.price.input == one.price.output


PLACE = {"project_id": None, "session_id": "s", "agent": "ann", "occurred_at": datetime(2026, 5, 1, 23, tzinfo=UTC)}


def settled(of: CostRecord, usd: str, number: int = 1, *, settles: bool = True) -> CostRecord:
    return replace(
        of,
        id=correction_id(of.id, number),
        input_tokens=0,
        output_tokens=0,
        total_tokens=0,
        cost_usd=Decimal(usd),
        corrects=of.id,
        settles=settles,
    )


class TestSums:
    @pytest.fixture
    def ledger(self, world: World) -> World:
        """Provide two calls of unknown price, one of them settled and corrected; and two with a price, one free."""
        world.submit("a")
        place = PLACE | {"project_id": world.project_id, "run_id": world.run_id, "task_id": world.ids["a"]}
        unknown, other = record("unknown", None, **place), record("other", None, **place)
        reported, free = record("told", "1", **place), record("free", "0.00", **place)
        with world.store.write() as tx:
            recorded(tx, world.workspace, [unknown, other, reported, free])
            recorded(tx, world.workspace, [settled(unknown, "0.3"), settled(unknown, "-0.1", 2, settles=False)])
        return world

    def test_each_sum_counts_calls_and_adds_corrections(self, ledger: World) -> None:
        with ledger.store.read() as tx:
            for of in ({}, {"run_id": ledger.run_id}, {"project_id": ledger.project_id}, {"session_id": "s"}):
                assert costs.total(tx, ledger.workspace, **of) == (Decimal("1.2"), 4, 1)
            for by in spending.DIMENSIONS:
                (group,) = spending.spending(tx, ledger.workspace, by=by)
                assert (group.cost_usd, group.calls, group.unpriced_calls) == (Decimal("1.2"), 4, 1)
                assert (group.input_tokens, group.total_tokens) == (4, 12)
            of_project = project_summary.totals(tx, ledger.workspace)[ledger.project_id]
            assert (of_project.cost_usd, of_project.calls, of_project.unpriced_calls) == (Decimal("1.2"), 4, 1)
            run = runs.get(tx, ledger.workspace, ledger.run_id)
            assert run is not None
            assert (run.cost_usd, run.unpriced_calls) == (Decimal("1.2"), 1)

    def test_what_is_left_to_price_and_what_is_told_to_be_free(self, ledger: World) -> None:
        with ledger.store.read() as tx:
            assert [one.id for one in costs.calls_to_price(tx, ledger.workspace)] == ["other"]
            every = costs.calls_to_price(tx, ledger.workspace, also_priced=True)
            assert [one.id for one in every] == ["free", "other", "told", "unknown"]
            after = costs.calls_to_price(tx, ledger.workspace, also_priced=True, after=every[1], limit=1)
            assert [one.id for one in after] == ["told"]
            assert [one.calls for one in spending.zero_cost(tx, ledger.workspace)] == [1]
            created = costs.corrections(tx, ledger.workspace, [one.id for one in every])
            assert {key: [one.id for one in value] for key, value in created.items()} == {
                "unknown": ["unknown~priced", "unknown~priced-2"]
            }
        with ledger.store.write() as tx:
            recorded(tx, ledger.workspace, [settled(every[0], "0.5", settles=False)])
        with ledger.store.read() as tx:
            assert spending.zero_cost(tx, ledger.workspace) == []

    def test_a_correction_alone_makes_nothing_negative(self, world: World) -> None:
        with world.store.write() as tx:
            recorded(tx, world.workspace, [settled(record("gone", None), "0.3")])

        with world.store.read() as tx:
            assert costs.total(tx, world.workspace) == (Decimal("0.3"), 0, 0)
            (group,) = spending.spending(tx, world.workspace, by="model")
            assert (group.calls, group.unpriced_calls) == (0, 0)

    def test_retention_never_leaves_a_correction_behind_alone(self, world: World) -> None:
        calls = [record(f"c{number}", None, occurred_at=PLACE["occurred_at"]) for number in range(5)]
        with world.store.write() as tx:
            recorded(tx, world.workspace, [one for call in calls for one in (call, settled(call, "1"))])

        while True:
            with world.store.write() as tx:
                old = retention.old_costs(tx, world.workspace, age=timedelta(0), limit=3)
                if not old:
                    break
                retention.delete_costs(tx, world.workspace, [row["id"] for row in old])
                left = {one.id: one for one in costs.each(tx, world.workspace)}
            assert all(one.corrects is None or one.corrects in left for one in left.values())


def test_a_project_that_goes_takes_its_prices_along(world: World) -> None:
    shop = project(world, "shop")
    with world.store.write() as tx:
        service.set_price(tx, world.workspace, "m", RATES, project_id=shop)
        service.set_price(tx, world.workspace, "m", RATES)

    world.sql("DELETE FROM projects WHERE id = :id", id=shop)

    with world.store.read() as tx:
        assert [one.project_id for one in prices.list_prices(tx, world.workspace)] == [None]
