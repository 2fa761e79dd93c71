"""Test how much of a stream is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runners.output import Capture, clean_json, clean_text, last_line, without_line_break


def test_short_output_is_kept_whole() -> None:
    capture = Capture(100)

    capture.feed(b"one\n")
    capture.feed("zwölf\n".encode())

    assert capture.text() == "one\nzwölf\n"


def test_long_output_keeps_head_and_tail_and_counts_what_is_missing() -> None:
    capture = Capture(10)

    capture.feed(b"0123456789abcdefghij")

    assert capture.text() == "01234\n… 10 bytes left out …\nfghij"


def test_a_cut_inside_a_character_takes_the_whole_character_away() -> None:
    capture = Capture(10)

    capture.feed(("1234é" + "x" * 20 + "é5678").encode())

    assert capture.text() == "1234\n… 24 bytes left out …\n5678"


@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(2, 40))
def test_whatever_arrives_stays_bounded_and_storable(chunks: list[bytes], limit: int) -> None:
    capture = Capture(limit)

    for chunk in chunks:
        capture.feed(chunk)

    text = capture.text()
    assert capture.total == sum(map(len, chunks))
    assert len(text) <= limit + 40
    assert clean_text(text) == text
    text.encode()


@given(st.lists(st.text(alphabet="aé€😀", max_size=9), max_size=9), st.integers(2, 40))
def test_text_never_shows_a_torn_character(pieces: list[str], limit: int) -> None:
    capture = Capture(limit)

    capture.feed("".join(pieces).encode())

    assert "\N{REPLACEMENT CHARACTER}" not in capture.text()


def test_json_is_cleaned_in_names_and_values() -> None:
    cleaned = clean_json({"a\0": ["\ud800", {"b": 1}], "c": None})

    assert cleaned == {"a\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}", {"b": 1}], "c": None}


def test_the_last_line_is_the_last_that_says_something() -> None:
    assert last_line("one\n  two \n \n\n", 100) == "two"
    assert last_line("x" * 50, 10) == "x" * 9 + "…"
    assert last_line("", 10) == ""


@pytest.mark.parametrize(("text", "shown"), [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", "")])
def test_one_line_break_at_the_end_is_taken_away(text: str, shown: str) -> None:
    assert without_line_break(text) == shown
