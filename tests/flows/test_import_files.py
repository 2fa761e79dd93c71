"""Test files of costs: imported whole or not at all, once by id, of any length, with a report of problems."""

from __future__ import annotations

import gc
import io
import json
import resource
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import func, select

from coordination.base.errors import FormatError, Unavailable
from coordination.flows.money import import_costs as flow
from coordination.flows.money.check_costs import check_costs
from coordination.flows.money.import_costs import ImportResult, check_file, import_file
from coordination.services.money import ledger
from coordination.services.projects.projects import resolve
from coordination.store.disk_queue import DiskQueue
from coordination.store.queries.money import costs
from coordination.store.tables.money.costs import costs as table
from tests.store.test_ledgers import record
from tests.support.refusals import refuses
from tests.support.world import World


def line(name: str, usd: object = "0.1", **usage: object) -> bytes:
    fields = {
        "model": "m",
        "input_tokens": 3,
        "output_tokens": 1,
        "timestamp": "2026-11-20T00:00:00.123456789Z",
        **usage,
    }
    text = json.dumps({"id": name, "usage": fields, "session_id": "s"})
    return text.replace('"model"', f'"cost_usd":{usd},"model"', 1).encode() + b"\n"


def take(world: World, content: bytes) -> ImportResult:
    """Import a file as the commands do."""
    with DiskQueue() as spool:
        check = check_file(world.store, world.workspace, io.BytesIO(content), spool, source="costs.jsonl")
        owner = world.store.transact(
            lambda tx: resolve(tx, world.workspace, identity="example.org/a/owner", name="owner", path=None)
        )
        return import_file(world.store, world.workspace, spool, owner=owner, checked=check, source="costs.jsonl")


def number(world: World) -> int:
    with world.store.read() as tx:
        return tx.execute(select(func.count()).select_from(table)).scalar_one()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_BATCH", 3)


def test_a_file_is_taken_once_and_its_sums_with_it(world: World) -> None:
    content = b"".join(line(f"c{index}", f"0.{index}") for index in range(1, 9))

    first, second = take(world, content), take(world, content + line("more"))

    assert (first.project, first.read, first.new) == ("owner", 8, 8)
    assert (second.read, second.new) == (9, 1)
    check = check_costs(world.store, world.workspace)
    assert (check.complete, check.wrong) == (True, 0)
    with world.store.read() as tx:
        assert costs.total(tx, world.workspace) == (Decimal("3.7"), 9, 0)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (line("c1", "0.2"), None),
        (line("c1", input_tokens=4), None),
        (line("there", "0.2"), None),
        (line("there", "null"), None),
        (line("there", "0.1", model="n"), None),
        (line("x", "NaN"), None),
        (line("x", "1e309"), "cost_usd"),
        (line("x", "1e99999999999999999999"), None),
        (line("x", "-0.1"), "cost_usd"),
        (line("x", "0." + "1" * 31), "cost_usd"),
        (line("x", currency="EUR"), "currency"),
        (line("x", input_tokens=10**13), "input_tokens"),
        (b'{"id":"' + b"x" * 2_000_000 + b'"}\n', None),
        (b"\x00\xff\xfe garbage\n", None),
        (b"[1]\n", None),
    ],
)
def test_of_a_file_with_a_bad_line_nothing_is_imported(world: World, other: bytes, field: str | None) -> None:
    there = record("there", "0.1", input_tokens=3, output_tokens=1, total_tokens=4)
    world.store.transact(lambda tx: ledger.append_records(tx, world.workspace, [there]))
    good = [line(f"c{index}") for index in range(1, 9)]

    with refuses(FormatError, field=field, line=9) as refused:
        take(world, b"".join([*good, other, line("after")]))

    assert refused.value.hint
    assert number(world) == 1


@pytest.mark.parametrize("usd", ["0.10", "0.100000", "1e-1"])
def test_the_same_amount_in_other_words_is_the_same(world: World, usd: str) -> None:
    take(world, line("c1", "0.1"))

    again = take(world, line("c1", usd) + line("c1", "0.1"))

    assert (again.read, again.new) == (2, 0)


def test_another_record_of_the_same_id_that_comes_meanwhile_is_refused_too(world: World) -> None:
    file = io.BytesIO(b"".join(line(f"c{index}") for index in range(1, 9)))
    with DiskQueue() as spool:
        check = check_file(world.store, world.workspace, file, spool, source="f")
        owner = world.store.transact(lambda tx: resolve(tx, world.workspace, identity="a.org/b/c", name="c", path=None))
        world.store.transact(lambda tx: ledger.append_records(tx, world.workspace, [record("c5", "7")]))

        with refuses(FormatError, line=5):
            import_file(world.store, world.workspace, spool, owner=owner, checked=check, source="f")

    # The other file, the previous batch, and perhaps the one that was written concurrently.
    assert number(world) in {1 + 3, 1 + 3 + 2}
    assert not check_costs(world.store, world.workspace).wrong


@pytest.mark.parametrize("cut", range(1, len(line("torn")) - 1, 7))
def test_a_last_line_that_is_not_finished_is_left_out_and_said(world: World, cut: int) -> None:
    done = take(world, line("c1") + line("c2") + line("torn")[:cut])

    assert (done.read, done.new, done.torn) == (2, 2, 3)
    whole = take(world, line("c1") + line("c2") + line("torn"))
    assert (whole.new, whole.torn) == (1, None)


@pytest.mark.parametrize(
    ("last", "field"),
    [
        (b"garbage", None),
        (b'{"id" 1}', None),
        (b'{"id":"x"}', "model"),
        (line("x", "-1").rstrip(), "cost_usd"),
        (b'{"id":"x"} y', None),
    ],
)
def test_a_last_line_that_is_wrong_is_refused_also_without_a_line_end(
    world: World, last: bytes, field: str | None
) -> None:
    with refuses(FormatError, field=field, line=2):
        take(world, line("c1") + last)

    assert number(world) == 0


def test_a_line_without_an_end_that_is_whole_counts(world: World) -> None:
    assert take(world, line("c1") + line("c2").rstrip()).new == 2


def test_calls_told_to_be_free_and_of_unknown_price_are_counted(world: World) -> None:
    lines = [line(f"f{index}", "0.0", model=f"m{index % 2}") for index in range(5)]
    lines += [line("unknown", "null"), line("idle", "0", input_tokens=0, output_tokens=0), line("paid")]

    done = take(world, b"".join(lines))
    again = take(world, b"".join(lines))

    assert {model: calls for (model, _), (calls, _) in done.free.items()} == {"m0": 3, "m1": 2}
    assert (done.unpriced, done.new) == (1, 8)
    assert (again.unpriced, again.free) == (0, {})


def test_what_was_read_to_the_ninth_digit_is_written_so_again(world: World) -> None:
    content = b"".join(line(f"c{index}", usd) for index, usd in enumerate(["0.1", "0.10", "1e-7", "0." + "1" * 30]))
    take(world, content)

    from coordination.formats.costs_jsonl import write_costs

    with world.store.read() as tx:
        assert b"".join(write_costs(costs.each(tx, world.workspace), "as-read")) == content


class Endless(io.RawIOBase):
    """A file of very many lines that are generated as they are read."""

    def __init__(self, lines: int) -> None:
        self._lines, self._next = lines, self._made()

    def _made(self) -> Iterator[bytes]:
        for index in range(self._lines):
            yield line(f"c{index}")

    def readline(self, size: int | None = -1, /) -> bytes:
        return next(self._next, b"")


def test_a_full_disk_is_said_and_nothing_is_taken(world: World) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DiskQueue() as spool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        try:
            with refuses(Unavailable):
                spool.put([(1, record("c1", "7"))] * 50)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert number(world) == 0


@pytest.mark.full
def test_memory_does_not_grow_with_the_file(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordination.store.engine import open_store

    monkeypatch.setattr(flow, "_BATCH", 500)
    world = World(open_store(store_url))
    peaks = []
    with DiskQueue() as spool:
        check_file(world.store, world.workspace, Endless(1_000), spool, source="f")  # type: ignore[arg-type]
    for lines in (3_000, 30_000):
        gc.collect()  # cycles of earlier tests may be freed at any time, and change the memory use
        tracemalloc.start()
        with DiskQueue() as spool:
            check_file(world.store, world.workspace, Endless(lines), spool, source="f")  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    world.store.close()

    assert peaks[1] < peaks[0] * 2  # a record is some hundred bytes
