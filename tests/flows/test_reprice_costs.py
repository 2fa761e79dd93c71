"""Test repricing: costs without a price get one once, whatever happens meanwhile and however often it is requested."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from coordination.domain.money.costs import CostRecord
from coordination.domain.money.pricing import Price, Quote, Rate, UnknownPrice
from coordination.flows.money import reprice_costs as flow
from coordination.flows.money.import_costs import import_costs
from coordination.flows.money.reprice_costs import RepricingRequest, RepricingResult, reprice_costs
from coordination.formats.costs_jsonl import write_costs
from coordination.services.money import prices as service
from coordination.services.projects import projects as project_service
from coordination.store.queries.money import costs
from coordination.store.reports.money import spending
from tests.support.cost_files import read_costs
from tests.support.world import World

AT = datetime(2026, 5, 1, tzinfo=UTC)


def listed(model: str, at: datetime) -> Quote | UnknownPrice:
    """Return a list with one model, whose price rose in June."""
    if model != "known":
        return UnknownPrice("it is not in the list")
    usd = Decimal(1) if at < datetime(2026, 6, 1, tzinfo=UTC) else Decimal(2)
    return Quote(Price(Rate(usd), Rate(usd)), "a list", "x/known")


def call(name: str, usd: str | None = None, model: str = "known", **fields: Any) -> CostRecord:
    return CostRecord(
        **{
            **dict.fromkeys(("session_id", "project_id", "run_id", "task_id", "attempt", "agent")),
            "id": name,
            "model": model,
            "input_tokens": 600_000,
            "output_tokens": 400_000,
            "cached_input_tokens": 0,
            "total_tokens": 1_000_000,
            "cost_usd": None if usd is None else Decimal(usd),
            "stale": False,
            "occurred_at": AT,
            **fields,
        }
    )


def store(world: World, *calls: CostRecord) -> None:
    with world.store.write() as tx:
        costs.append(tx, world.workspace, calls)


def reprice(world: World, *, dry_run: bool = False, **wanted: Any) -> RepricingResult:
    return reprice_costs(
        world.store, world.workspace, RepricingRequest(**wanted), price_list=listed, actor="user:ann", dry_run=dry_run
    )


def total(world: World, **of: Any) -> tuple[Decimal, int, int]:
    with world.store.read() as tx:
        return costs.total(tx, world.workspace, **of)


def set_price(world: World, model: str, usd: str, project_id: str | None = None) -> None:
    with world.store.write() as tx:
        service.set_price(tx, world.workspace, model, {"input": usd, "output": usd}, project_id=project_id)


def test_unknown_prices_are_settled_once_and_the_rest_is_named(world: World) -> None:
    store(world, call("a"), call("b", model="other"), call("c", "7"), call("later", occurred_at=AT.replace(month=7)))

    tried = reprice(world, dry_run=True)
    assert (tried.looked_at, tried.corrected, tried.added_usd) == (3, 2, 3)
    assert total(world) == (7, 4, 3)
    first, second = reprice(world), reprice(world)

    assert (first.looked_at, first.corrected, first.added_usd) == (3, 2, 3)
    assert first.calls == {("known", "a list"): 2}
    assert first.left == {("other", "it is not in the list"): 1}
    assert (second.looked_at, second.corrected, second.added_usd) == (1, 0, 0)
    assert total(world) == (10, 4, 1)
    set_price(world, "other", "0.5")
    assert reprice(world).calls == {("other", "override of the workspace"): 1}
    assert reprice(world).looked_at == 0
    assert total(world) == (Decimal("10.5"), 4, 0)


def test_each_project_has_its_own_prices_and_may_be_asked_for_alone(world: World) -> None:
    with world.store.write() as tx:
        p, q = (
            project_service.resolve(tx, world.workspace, identity=f"example.org/{name}", name=name, path=None).id
            for name in "pq"
        )
    store(world, *(call(name, model="mine", project_id=of) for name, of in (("a", p), ("b", q), ("c", None))))
    set_price(world, "mine", "1")
    set_price(world, "mine", "5", project_id=q)

    assert reprice(world, project_id=p, since=AT).corrected == 1
    assert reprice(world, since=AT.replace(day=2)).corrected == 0
    assert reprice(world).corrected == 2

    assert [total(world, project_id=of) for of in (p, q)] == [(1, 1, 0), (5, 1, 0)]
    assert total(world) == (7, 3, 0)


def test_calls_told_to_be_free_are_priced_only_when_that_is_asked_for(world: World) -> None:
    idle = {"input_tokens": 0, "output_tokens": 0}
    store(world, call("a", "0.0"), call("b", "0", "other"), call("c", "7"), call("d", "0", **idle))

    assert reprice(world).looked_at == 0
    done = [reprice(world, zero=True) for _ in range(2)]

    assert [(one.corrected, one.added_usd) for one in done] == [(1, 1), (0, 0)]
    assert total(world) == (8, 4, 0)
    with world.store.read() as tx:
        assert [one.model for one in spending.zero_cost(tx, world.workspace)] == ["other"]


def test_a_price_that_changed_adds_the_difference_only_when_that_is_asked_for(world: World) -> None:
    created = call("ours", "1", extra={"priced_by": "a list"})
    store(world, created, call("told", "1"), call("unknown"))
    reprice(world)
    set_price(world, "known", "0.25")

    assert reprice(world).corrected == 0
    assert reprice(world, zero=True).corrected == 0
    done = [reprice(world, computed=True) for _ in range(2)]

    assert [(one.corrected, one.added_usd) for one in done] == [(2, Decimal("-1.5")), (0, 0)]
    assert total(world) == (Decimal("1.5"), 3, 0)
    set_price(world, "known", "4")
    assert reprice(world, computed=True).added_usd == Decimal("7.5")
    assert total(world) == (9, 3, 0)


def test_many_at_once_bill_once(world: World) -> None:
    store(world, *(call(f"c{number}") for number in range(40)))

    threads = [threading.Thread(target=reprice, args=(world,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert total(world) == (40, 40, 0)


def test_it_goes_on_where_it_died(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "BATCH", 3)
    store(world, *(call(f"c{number:02}") for number in range(10)))
    append, appended = costs.append, threading.Semaphore(2)

    def dies(tx: Any, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
        done = append(tx, workspace_id, records)
        if not appended.acquire(blocking=False):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(costs, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        reprice(world)
    assert total(world) == (6, 10, 4)
    monkeypatch.setattr(costs, "append", append)

    assert reprice(world).corrected == 4
    assert total(world) == (10, 10, 0)


def test_an_id_that_somebody_else_has_taken_is_named_and_not_counted(world: World) -> None:
    store(world, call("a"), call("b"), call("a~priced", "3"))

    done = reprice(world)

    assert (done.corrected, done.left.total()) == (1, 1)
    assert total(world) == (4, 3, 1)


def test_a_ledger_that_was_repriced_is_exported_and_imported_whole(world: World) -> None:
    store(world, call("a", extra={"cache_write_input_tokens": 5, "share": 0.5}), call("b", "0", "other"), call("c"))
    reprice(world)
    with world.store.read() as tx:
        lines = list(write_costs(costs.each(tx, world.workspace)))
        before = list(costs.each(tx, world.workspace))
    other = World(world.store, "other")
    with world.store.write() as tx:
        owner = project_service.resolve(tx, other.workspace, identity="example.org/o", name="o", path=None).id

    for _ in range(2):
        records = list(read_costs(lines))
        with world.store.write() as tx:
            import_costs(tx, other.workspace, records, project_id=owner)

    assert total(other) == total(world) == (2, 3, 0)
    with world.store.read() as tx:
        after = list(costs.each(tx, other.workspace))
        again = list(write_costs(after, "as-read"))
    keys = ("line", "shape")
    assert [
        replace(one, project_id=None, extra={name: value for name, value in one.extra.items() if name not in keys})
        for one in after
    ] == before
    assert again == lines
    assert reprice(other).looked_at == 0


def test_a_correction_goes_where_its_record_is_and_alone_it_settles_nothing(world: World) -> None:
    with world.store.write() as tx:
        p, q = (
            project_service.resolve(tx, world.workspace, identity=f"example.org/{name}", name=name, path=None).id
            for name in "pq"
        )
        costs.append(tx, world.workspace, [call("a", project_id=p), call("other", project_id=q)])
    created = {"cost_usd": Decimal(1), "input_tokens": 0, "output_tokens": 0, "settles": True, "project_id": q}
    records = [call("a~priced", **created | {"corrects": "a"}), call("x~priced", **created | {"corrects": "x"})]

    with world.store.write() as tx:
        import_costs(tx, world.workspace, records, project_id=q)

    assert total(world, project_id=p) == (1, 1, 0)
    assert total(world, project_id=q) == (1, 1, 1)
