"""Test the buffer of a running job's output until it is written: bounded, whole characters, no loss of what is kept."""

from __future__ import annotations

import random

from coordination.domain.jobs.output import OutputCursor, StoredChunk
from workers.leases.in_flight import CHUNK, YOUNG, OutputBuffer

LATER = YOUNG + 1
LIMIT = 20 * CHUNK


class Rows:
    """Stands in for the table: one row for each slot, and a newer row replaces an older one."""

    def __init__(self) -> None:
        self.by_slot: dict[int, StoredChunk] = {}

    def write(self, chunks: list[StoredChunk]) -> None:
        for chunk in chunks:
            previous = self.by_slot.get(chunk.slot)
            if previous is None or (chunk.position, chunk.size) > (previous.position, previous.size):
                self.by_slot[chunk.slot] = chunk

    def text(self) -> str:
        ordered = sorted(self.by_slot.values(), key=lambda chunk: chunk.position)
        return "".join(piece.text for piece in OutputCursor(1).advance(ordered))


def written(live: OutputBuffer, rows: Rows) -> list[StoredChunk]:
    due_rows = live.due(LATER)
    rows.write(due_rows)
    live.mark_written(due_rows)
    return due_rows


def test_a_short_job_has_nothing_to_write() -> None:
    live = OutputBuffer(LIMIT, began=0)
    live.feed("out", b"hello\n")

    assert live.due(YOUNG / 2) == []
    assert live.drain() == []


def test_what_is_nowhere_else_is_written_of_a_short_job_too() -> None:
    live, rows = OutputBuffer(LIMIT, began=0, elsewhere=False), Rows()
    live.feed("out", b"hello\n")

    assert live.due(YOUNG / 2) == []
    rows.write(live.drain())

    assert rows.text() == "hello\n"


def test_a_long_job_writes_what_is_new_and_only_then() -> None:
    live, rows = OutputBuffer(LIMIT, began=0), Rows()
    live.feed("out", b"one\n")
    live.feed("err", b"oops\n")

    assert len(written(live, rows)) == 1
    assert live.due(LATER) == []
    live.feed("out", b"two\n")
    (grown,) = live.drain()

    assert grown.pieces == (("out", "one\n"), ("err", "oops\n"), ("out", "two\n"))


def test_a_line_now_and_then_does_not_make_rows() -> None:
    live, rows = OutputBuffer(LIMIT, began=0), Rows()

    for number in range(1_000):
        live.feed("out", b"%d\n" % number)
        written(live, rows)

    assert len(rows.by_slot) == 1
    assert rows.text() == "".join(f"{number}\n" for number in range(1_000))


def test_a_flood_is_bounded_in_memory_and_rows_and_says_what_is_left_out() -> None:
    live, rows = OutputBuffer(LIMIT, began=0), Rows()
    block = b"x" * 65_535 + b"\n"

    for number in range(1_600):
        live.feed("out", block)
        assert len(live._waiting) < LIMIT // CHUNK
        if number % 100 == 99:
            assert sum(chunk.size for chunk in written(live, rows)) <= LIMIT
    rows.write(live.drain())

    assert len(rows.by_slot) <= LIMIT // CHUNK
    kept = sum(chunk.size for chunk in rows.by_slot.values())
    text = rows.text()
    cuts = [int(line.split()[1].replace(",", "")) for line in text.splitlines() if line.startswith("…")]
    assert sum(cuts) + kept == 1_600 * 65_536
    assert text.startswith("x" * 100)
    assert text.endswith("x\n")


def test_many_small_turns_of_two_streams_are_bounded_too() -> None:
    live, rows = OutputBuffer(LIMIT, began=0), Rows()

    for _ in range(200_000):
        live.feed("out", b"a")
        live.feed("err", b"b")
    rows.write(live.due(LATER))

    assert len(rows.by_slot) <= LIMIT // CHUNK
    assert sum(len(chunk.pieces) for chunk in rows.by_slot.values()) < LIMIT / 16


def test_characters_cut_anywhere_and_streams_mixed_come_out_whole() -> None:
    text = "grüße, 日本, \N{PILE OF POO}! " * 5_000
    data, dice = text.encode(), random.Random(7)  # noqa: S311 - a cut is no secret
    live, rows = OutputBuffer(10_000_000, began=0), Rows()

    at = 0
    while at < len(data):
        size = dice.randint(1, 9)
        live.feed("out", data[at : at + size])
        at += size
        if dice.random() < 0.01:
            live.feed("err", b"!")
            written(live, rows)
    rows.write(live.drain())

    ordered = sorted(rows.by_slot.values(), key=lambda chunk: chunk.position)
    assert "".join(output for chunk in ordered for stream, output in chunk.pieces if stream == "out") == text


def test_what_is_no_text_becomes_text_and_ends_with_the_job() -> None:
    live, rows = OutputBuffer(LIMIT, began=0), Rows()
    live.feed("out", b"a\xff\x00b\xf0")
    written(live, rows)

    rows.write(live.drain())

    assert rows.text() == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_what_could_not_be_written_is_written_later() -> None:
    live, rows = OutputBuffer(LIMIT, began=0), Rows()
    live.feed("out", b"x" * (3 * CHUNK))
    live.due(LATER)  # the database is unreachable
    live.feed("out", b"y" * 10)

    written(live, rows)

    assert rows.text() == "x" * (3 * CHUNK) + "y" * 10
    assert live.due(LATER) == []


def test_an_outage_costs_bounded_memory() -> None:
    live = OutputBuffer(LIMIT, began=0)

    for _ in range(500):
        live.feed("out", b"x" * CHUNK)
        due_rows = live.due(LATER)

    assert len(due_rows) <= LIMIT // CHUNK


def test_a_small_limit_keeps_a_beginning_and_an_end() -> None:
    live, rows = OutputBuffer(1, began=0), Rows()
    for number in range(10):
        live.feed("out", b"%d" % number * CHUNK)
        written(live, rows)

    assert len(rows.by_slot) == 2
    assert rows.text().startswith("0")
    assert rows.text().endswith("9")
