"""Test that the tutorial works as written: a new shell runs its blocks in order, with its stand-in for the agent."""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.sources import ROOT
from tests.support.speed import patience

PAGE = ROOT / "docs" / "tutorial.md"
REST = "…"
LOOKS = ("coord explain ", "coord questions", "coord runs show ", "coord tasks list ")
"""Blocks that begin so change nothing, and are repeated until they print what the page says."""

VARYING = (
    (r"(?m)^(\d\d:\d\d:\d\d)  \d+/\d+ ", r"\1  COUNT "),  # read a moment before or after the event beside it
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID"),
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"\bindex [0-9a-f]+\.\.[0-9a-f]+", "index IDS"),
    (r"\d{4}-\d\d-\d\d", "DATE"),
    (r"\d\d:\d\d:\d\d", "TIME"),
    (r"\b(\d+h|\d+m|\d+(\.\d+)?s|\d+ms)+\b", "LENGTH"),
    (r"\S+-\d+@\S+", "WORKER"),
    (r"user:\S+", "USER"),
    (r"\(process \d+\)", "(process N)"),
)


@dataclass(frozen=True)
class Step:
    """Commands of the page, and the output that it shows for them (None: it shows none)."""

    line: int
    commands: str
    printed: str | None


def steps() -> list[Step]:
    """Return the blocks of commands in the order of the page."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.compile(r"^```console\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
    return [
        Step(text.count("\n", 0, matches.start()) + 2, matches.group(1), matches.group(2))
        for matches in blocks.finditer(text)
    ]


def shape(text: str, home: Path) -> list[str]:
    """Return the lines without what differs between two runs: ids, times, lengths, and the width of columns."""
    text = text.replace(str(home), "/home/ann")
    for pattern, word in VARYING:
        text = re.sub(pattern, word, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def fits(printed: list[str], expected: list[str]) -> bool:
    """Return whether the lines match those of the page; its last line may be ``…``, which matches any rest."""
    if expected and expected[-1] == REST:
        return printed[: len(expected) - 1] == expected[:-1]
    return printed == expected


class Shell:
    """One shell for the whole page, as a reader has it: each block sees the variables of the earlier ones."""

    def __init__(self, processes: Processes, home: Path) -> None:
        self.home = home
        self._pipe = home / "commands"
        os.mkfifo(self._pipe)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COORD_")}
        who = {f"GIT_{role}_{what}": "ann" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {
            **dict.fromkeys(set(os.environ) - set(kept), ""),
            **who,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "200",
        }
        self._bash = processes.start("bash", self._pipe, env=environment, cwd=home)
        self._commands = self._pipe.open("w", encoding="utf-8")
        self._count = 0

    def __call__(self, commands: str) -> str:
        """Run the commands and return their whole output. Raises AssertionError when the last one fails."""
        self._count += 1
        begun = len(self._bash.output)
        mark = f"END-OF-BLOCK-{self._count}"
        self._commands.write(f"{commands}\necho {mark} $?\n")
        self._commands.flush()
        ended = self._bash.wait_for(rf"^(?:.*\n)*?.*{mark} (\d+)$", within=timedelta(seconds=90))
        printed = self._bash.output[begun:].partition(mark)[0]
        assert ended.group(1) == "0", f"{commands}\n{printed}"
        return printed

    def close(self) -> None:
        """End the shell and its child processes."""
        with suppress(AssertionError):
            self("coord down || true")
        self._commands.close()


@pytest.fixture
def shell(processes: Processes, tmp_path: Path) -> Iterator[Shell]:
    opened = Shell(processes, tmp_path)
    yield opened
    opened.close()


def test_a_reader_who_follows_the_tutorial_sees_what_it_says(shell: Shell) -> None:
    differences, page = [], PAGE.read_text(encoding="utf-8")
    for step in steps():
        printed = shell(step.commands)
        if step.printed is None:
            continue
        expected = shape(step.printed, shell.home)
        deadline = time.monotonic() + patience(30)
        while not fits(shape(printed, shell.home), expected) and time.monotonic() < deadline:
            if not step.commands.startswith(LOOKS):
                break
            printed = shell(step.commands)
        if not fits(shape(printed, shell.home), expected):
            lines = difflib.unified_diff(expected, shape(printed, shell.home), "page", "printed", lineterm="")
            differences += [f"docs/tutorial.md, line {step.line}:", *lines]
            now = printed.replace(str(shell.home), "/home/ann")
            before, after = (f"{step.commands}```\n\n```text\n{text}```" for text in (step.printed, now))
            page = page.replace(before, after)
    printed_page = ROOT / ".pytest_cache" / "tutorial.md"
    printed_page.parent.mkdir(exist_ok=True)
    printed_page.write_text(page, encoding="utf-8")

    hint = f"{printed_page} is the page with what was printed now: read it, then copy it over"
    assert not differences, "\n".join([*differences, hint])


def test_the_tutorial_has_an_output_for_most_of_its_commands() -> None:
    blocks_of_page = steps()

    assert len(blocks_of_page) > 10
    assert sum(step.printed is not None for step in blocks_of_page) > 10
