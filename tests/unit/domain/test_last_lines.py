"""Test the last lines of a job: each stream apart, bounded, and without control characters."""

from __future__ import annotations

import pytest

from coordination.domain.jobs.last_lines import MOST_CHARACTERS, LastLines, format_last_lines, last_lines

SHELL = {"shell": "pytest"}


def test_both_streams_are_shown_apart_and_cut_at_their_beginning() -> None:
    out = "\n".join(str(number) for number in range(100))

    lines = last_lines(SHELL, out, "careful\n", most=2)

    assert lines == (
        LastLines("stdout", ("98", "99"), left_out=True),
        LastLines("stderr", ("careful",), left_out=False),
    )
    assert format_last_lines(lines) == "The end of stdout:\n  98\n  99\nstderr:\n  careful"


@pytest.mark.parametrize(("output", "log"), [(None, None), ("", "  \n"), ({"n": 1}, None)])
def test_what_says_nothing_and_what_is_no_text_is_left_out(output: object, log: str | None) -> None:
    assert last_lines(SHELL, output, log) == ()


def test_a_line_without_an_end_is_cut() -> None:
    (lines,) = last_lines(SHELL, "x" * 1_000_000, None)

    assert lines.left_out
    assert [len(line) for line in lines.lines] == [MOST_CHARACTERS]


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    (lines,) = last_lines(SHELL, "\x1b[31mred\x1b[0m\rdone\x07", None)

    assert lines.lines == ("red", "done\ufffd")


@pytest.mark.parametrize(
    ("work", "log", "names"),
    [
        ({"python": "m:f"}, "printed", ["output"]),
        ({"agent": "claude", "prompt": "x"}, "oops", ["answer", "stderr"]),
        (SHELL, "oops\n[gate make] exit status 2 (1s)", ["stdout", "stderr and gates"]),
    ],
)
def test_streams_are_called_what_they_are(work: dict[str, str], log: str, names: list[str]) -> None:
    assert [one.stream for one in last_lines(work, "answer", log)] == names
