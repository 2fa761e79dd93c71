"""Test chunks that grow and are read repeatedly: each part is returned once, and a gap is reported."""

from __future__ import annotations

from coordination.domain.jobs.output import OutputChunk, OutputCursor, StoredChunk, Stream


def chunk(position: int, *pieces: tuple[str, str], size: int | None = None, slot: int = 0) -> StoredChunk:
    return StoredChunk(slot, position, sum(len(text) for _, text in pieces) if size is None else size, pieces)


def new_text(reel: OutputCursor, *chunks: StoredChunk) -> str:
    return "".join(piece.text for piece in reel.advance(chunks))


def test_what_grew_is_told_from_where_it_was_left() -> None:
    reel = OutputCursor(1)

    assert new_text(reel, chunk(0, ("out", "one\n"))) == "one\n"
    assert new_text(reel, chunk(0, ("out", "one\ntw"), ("err", "oops"))) == "twoops"
    assert new_text(reel, chunk(0, ("out", "one\ntw"), ("err", "oops\n"), ("out", "o\n"))) == "\no\n"
    assert new_text(reel, chunk(0, ("out", "one\ntw"), ("err", "oops\n"), ("out", "o\n"))) == ""


def test_a_later_chunk_takes_over() -> None:
    reel = OutputCursor(1)
    assert new_text(reel, chunk(0, ("out", "abc"))) == "abc"

    assert new_text(reel, chunk(0, ("out", "abcde")), chunk(5, ("out", "f"))) == "def"

    assert reel.after == 5


def test_what_is_kept_nowhere_is_counted() -> None:
    reel = OutputCursor(3)
    assert new_text(reel, chunk(0, ("out", "abc"))) == "abc"

    pieces = list(reel.advance([chunk(0, ("out", "abcde")), chunk(1_005, ("err", "z"))]))

    assert pieces == [
        OutputChunk(3, Stream.OUT, "de"),
        OutputChunk(3, Stream.OUT, "\n… 1,000 bytes left out …\n", left_out=1_000),
        OutputChunk(3, Stream.ERR, "z"),
    ]


def test_a_chunk_that_was_overwritten_before_it_was_read_to_its_end_is_missing_from_there() -> None:
    reel = OutputCursor(1)
    assert new_text(reel, chunk(0, ("out", "abc"))) == "abc"

    assert new_text(reel, chunk(100, ("out", "z"))) == "\n… 97 bytes left out …\nz"
