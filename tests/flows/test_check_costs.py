"""Test that sums match the records to the last digit, whatever writes, dies, deletes or moves midnight meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import delete, select, update

from coordination.base.errors import Conflict, Refused
from coordination.domain.money.costs import CostRecord, correction_id
from coordination.flows.money import check_costs as flow
from coordination.flows.money.check_costs import check_costs, complete_sums, set_timezone
from coordination.flows.projects.retain import RetentionAges, retain
from coordination.services.money import ledger
from coordination.store.engine import open_store
from coordination.store.queries.money import costs, rollups
from coordination.store.queries.projects import retention
from coordination.store.tables.money.rollups import rollups as table
from coordination.store.tables.projects.retention import SUMS, chores
from tests.store.test_ledgers import record
from tests.support.processes import Processes
from tests.support.refusals import refuses
from tests.support.sources import ROOT
from tests.support.speed import patience
from tests.support.world import World

BEGIN = datetime(2026, 3, 28, 12, tzinfo=UTC)


def some(number: int, seed: int = 0, of: str = "r") -> list[CostRecord]:
    """Return records of all kinds over three days, with corrections of some of them."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    created: list[CostRecord] = []
    for index in range(number):
        usd = dice.choice(
            [None, "0", "0.1", f"0.{dice.randrange(10**30):030d}", "12345678901.000000000000000000000000000001"]
        )
        one = record(
            f"{of}{seed}-{index}",
            usd,
            session_id=dice.choice([None, "s1", "s2"]),
            agent=dice.choice([None, "ann", "bo\u00e9"]),
            model=dice.choice(["m", "n"]),
            input_tokens=dice.randrange(10**6),
            occurred_at=BEGIN + timedelta(minutes=dice.randrange(3 * 24 * 60)),
        )
        created.append(one)
        if dice.random() < 0.2:
            created.append(correction(one, "-0.05" if usd else "0.7"))
    return created


def correction(of: CostRecord, usd: str) -> CostRecord:
    return replace(
        of,
        id=correction_id(of.id, 1),
        corrects=of.id,
        settles=of.cost_usd is None,
        cost_usd=Decimal(usd),
        input_tokens=0,
        output_tokens=0,
        total_tokens=0,
    )


def write(world: World, records: Iterable[CostRecord]) -> int:
    return len(world.store.transact(lambda tx: ledger.append_records(tx, world.workspace, list(records))))


def right(world: World) -> bool:
    check = check_costs(world.store, world.workspace)
    assert not check.wrong, check.examples
    return check.complete


def kept(world: World) -> set[tuple]:
    with world.store.read() as tx:
        return {tuple(row) for row in tx.execute(select(table).where(table.c.workspace_id == world.workspace))}


def test_what_is_recorded_is_in_the_sums_at_once(world: World) -> None:
    records = some(300)
    other = World(world.store, "other")
    write(other, some(20))

    for start in range(0, len(records), 37):
        write(world, records[start : start + 37])
    again = write(world, records[:50])

    assert again == 0
    assert right(world)
    assert right(other)
    assert sum(row.calls for row in rows(world, "model", "month")) == 300


def rows(world: World, dimension: str, grain: str) -> list:
    with world.store.read() as tx:
        return tx.execute(
            select(table).where(
                table.c.workspace_id == world.workspace, table.c.dimension == dimension, table.c.grain == grain
            )
        ).all()


def test_a_transaction_that_is_taken_back_leaves_no_sum(world: World) -> None:
    with world.store.write() as tx:
        ledger.append_records(tx, world.workspace, some(5))
        tx.rollback()

    assert kept(world) == set()


@pytest.mark.parametrize("how", ["added", "missing", "stray", "lost"])
def test_what_is_wrong_is_found_and_mended(world: World, how: str) -> None:
    write(world, some(100))
    before = rows(world, "model", "month")
    with world.store.write() as tx:
        match how:
            case "added":  # a program that does not write sums
                costs.append(tx, world.workspace, some(30, seed=1))
            case "missing":
                tx.execute(delete(table).where(table.c.dimension == "agent"))
            case "stray":
                first = (table.c.dimension == "run", table.c.grain == "day", table.c.starts == "2026-03-29")
                assert tx.execute(update(table).where(*first).values(starts="2020-01-01", calls=7)).rowcount == 1
            case "lost":  # as when such a program's retention deletes
                retention.delete_costs(tx, world.workspace, [one.id for one in some(10)])

    check = check_costs(world.store, world.workspace)
    assert check.wrong
    assert check.examples
    mended = check_costs(world.store, world.workspace, repair=True)

    assert (mended.wrong, mended.repaired) == (check.wrong, True)
    assert right(world)
    if how in {"missing", "stray"}:
        assert {tuple(row)[:-1] for row in rows(world, "model", "month")} == {tuple(row)[:-1] for row in before}
    assert not any(row.starts == "2020-01-01" for row in rows(world, "run", "day"))


def test_writers_at_the_same_time_and_a_repair_among_them_lose_nothing(store_url: str) -> None:
    world = World(open_store(store_url))
    with world.store.write() as tx:
        costs.append(tx, world.workspace, some(200, seed=99))
    problems: list[BaseException] = []

    def writer(seed: int) -> None:
        own = open_store(store_url)
        try:
            records = some(60, seed=seed)
            for start in range(0, len(records), 7):
                own.transact(
                    lambda tx, start=start: ledger.append_records(tx, world.workspace, records[start : start + 7])
                )
        except BaseException as error:  # noqa: BLE001 - for the assertion
            problems.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=writer, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    check_costs(world.store, world.workspace, repair=True)
    set_timezone(world.store, world.workspace, "Asia/Tokyo")
    for thread in threads:
        thread.join()

    assert problems == []
    assert right(world)
    check_costs(world.store, world.workspace, repair=True)
    assert {row.shard for row in rows(world, "model", "month") if row.starts < "2026-04-01"} == {0}
    assert right(world)
    world.store.close()


def write_in_a_process(url: str, workspace: str, seed: int) -> None:
    """Run one of several processes, whose records another one writes too."""
    own = open_store(url)
    for one in (*some(40, seed=seed), *some(20, of="shared")):
        own.transact(lambda tx, one=one: ledger.append_records(tx, workspace, [one]))
    own.close()


WRITER = """
import sys
from tests.flows.test_check_costs import write_in_a_process
write_in_a_process(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def test_processes_that_write_the_same_and_other_records_count_each_once(store_url: str, processes: Processes) -> None:
    world = World(open_store(store_url))

    writers = [
        processes.start_python("-c", WRITER, store_url, world.workspace, str(seed), cwd=ROOT) for seed in range(1, 4)
    ]

    assert [one.wait(within=timedelta(seconds=100)) for one in writers] == [0, 0, 0], writers[0].output
    assert right(world)
    with world.store.read() as tx:
        assert costs.total(tx, world.workspace)[1] == 3 * 40 + 20
    world.store.close()


def test_a_writer_waits_for_no_other(postgres_url: str) -> None:
    world = World(open_store(postgres_url))
    stores = [open_store(postgres_url) for _ in range(12)]
    opened = [one.write() for one in stores]
    for number, one in enumerate(opened):  # none of them ends before all have written the same sums
        ledger.append_records(one.__enter__(), world.workspace, [record(f"r{number}", "0.1")])
    for one in opened:
        one.__exit__(None, None, None)

    assert len({row.shard for row in rows(world, "model", "day")}) == 12
    assert right(world)
    for one in (world.store, *stores):
        one.close()


def test_a_repair_that_dies_in_the_middle_is_gone_on_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.store.write() as tx:
        costs.append(tx, world.workspace, some(50))
    monkeypatch.setattr(flow, "_BATCH", 5)
    added, steps = rollups.add, iter(range(3))

    def dies(*given: object, **named: object) -> None:
        if next(steps, None) is None:
            raise RuntimeError
        added(*given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(rollups, "add", dies)
        with pytest.raises(RuntimeError):
            check_costs(world.store, world.workspace, repair=True)
    assert kept(world)

    check_costs(world.store, world.workspace, repair=True)

    assert right(world)


def test_two_repairs_do_not_mend_the_same_twice(world: World) -> None:
    with world.store.write() as tx:
        costs.append(tx, world.workspace, some(20))
        assert retention.begin(tx, world.workspace, SUMS, owner="another", lease=timedelta(minutes=1))

    with refuses(Conflict):
        check_costs(world.store, world.workspace, repair=True)
    with refuses(Conflict):
        set_timezone(world.store, world.workspace, "Asia/Tokyo")

    assert kept(world) == set()


def test_a_repair_whose_place_was_taken_over_writes_nothing_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.store.write() as tx:
        costs.append(tx, world.workspace, some(20))
    drift = rollups.find_drift

    def overtaken(tx, workspace_id: str):
        yield next(result := drift(tx, workspace_id))
        with world.store.write() as other:
            other.execute(update(chores).where(chores.c.name == SUMS).values(owner="another"))
        yield from result

    monkeypatch.setattr(rollups, "find_drift", overtaken)
    with pytest.raises(Conflict):
        check_costs(world.store, world.workspace, repair=True)

    assert kept(world) == set()


def test_what_retention_deletes_stays_in_the_sums_and_the_proof_holds(world: World) -> None:
    records = some(80)
    write(world, records)
    write(world, [record("young", "3", occurred_at=datetime.now(UTC))])
    before = totals(world)
    ages = RetentionAges(runs=timedelta(0), workers=timedelta(0), costs=timedelta(days=30))

    done = retain(world.store, world.workspace, ages, rest=lambda _: False, batch=7)

    assert done is not None
    assert done.rows["costs"] == len(records)
    assert totals(world) == before
    assert right(world)
    check_costs(world.store, world.workspace, repair=True)
    assert totals(world) == before
    with world.store.read() as tx:
        assert costs.total(tx, world.workspace)[1] == 1


def totals(world: World) -> dict[tuple[str, str], tuple[int, int, Decimal]]:
    sums: dict[tuple[str, str], list[int | Decimal]] = {}
    for row in (*rows(world, "model", "day"), *rows(world, "session", "month")):
        one = sums.setdefault((row.dimension, row.starts + row.key), [0, 0, Decimal(0)])
        one[0] += row.calls
        one[1] += row.unpriced
        one[2] = one[2] + row.cost_usd
    return {key: tuple(one) for key, one in sums.items()}  # type: ignore[misc]


class TestZones:
    def test_days_begin_where_the_workspace_is_and_the_clock_may_change(self, world: World) -> None:
        moments = {
            "2026-03-28T22:59:59.999999": "2026-03-28",
            "2026-03-28T23:00:00": "2026-03-29",  # the day with 23 hours
            "2026-03-29T21:59:59": "2026-03-29",
            "2026-03-29T22:00:00": "2026-03-30",
            "2026-10-24T22:00:00": "2026-10-25",  # the day with 25
            "2026-10-25T22:59:59": "2026-10-25",
            "2026-10-25T23:00:00": "2026-10-26",
            "2026-12-31T23:30:00": "2027-01-01",
        }
        write(world, [record(at, "1", occurred_at=datetime.fromisoformat(at).replace(tzinfo=UTC)) for at in moments])

        done = set_timezone(world.store, world.workspace, "Europe/Berlin")

        assert (done.zone, done.repaired) == ("Europe/Berlin", True)
        days = {row.starts: row.calls for row in rows(world, "model", "day")}
        assert days == {day: list(moments.values()).count(day) for day in moments.values()}
        assert {row.starts: row.calls for row in rows(world, "model", "month")} == {
            "2026-03-01": 4, "2026-10-01": 3, "2027-01-01": 1,
        }  # fmt: skip
        assert right(world)
        write(world, [record("late", occurred_at=datetime(2026, 12, 31, 23, 59, tzinfo=UTC))])
        assert right(world)
        assert {row.starts: row.calls for row in rows(world, "model", "day")}["2027-01-01"] == 2

    def test_a_zone_that_there_is_not_is_refused_and_nothing_is_changed(self, world: World) -> None:
        write(world, some(5))
        before = kept(world)

        with refuses(Refused):
            set_timezone(world.store, world.workspace, "europe/berlin")

        assert kept(world) == before
        assert right(world)

    def test_while_it_is_counted_again_the_sums_are_not_all_there(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(world, some(5))

        def dies(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(flow, "_repair", dies)
        with pytest.raises(RuntimeError):
            set_timezone(world.store, world.workspace, "Asia/Tokyo")
        monkeypatch.undo()

        with world.store.read() as tx:
            assert not rollups.is_complete(tx, world.workspace)
            assert rollups.read_zone(tx, world.workspace) == "Asia/Tokyo"
        complete_sums(world.store)
        assert right(world)

    def test_a_writer_that_began_by_the_old_zone_ends_before_the_new_one_holds(self, postgres_url: str) -> None:
        world = World(open_store(postgres_url))
        late = record("late", "1", occurred_at=datetime(2026, 12, 31, 23, 30, tzinfo=UTC))
        moving = threading.Thread(target=set_timezone, args=(world.store, world.workspace, "Europe/Berlin"))

        with world.store.write() as tx:
            ledger.append_records(tx, world.workspace, [late])
            moving.start()
            moving.join(timeout=1.0)
            assert moving.is_alive()
        moving.join(patience(30))

        assert right(world)
        assert [row.starts for row in rows(world, "model", "day")] == ["2027-01-01"]
        world.store.close()

    def test_a_moment_at_the_end_of_the_calendar_has_a_day_too(self, world: World) -> None:
        set_timezone(world.store, world.workspace, "Pacific/Kiritimati")
        ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, tzinfo=UTC)]

        write(world, [record(str(at), "1", occurred_at=at) for at in ends])

        assert right(world)
