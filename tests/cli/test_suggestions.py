"""Test that an unknown command names a similar one, with the same arguments, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from coordination.base.errors import REFUSED
from coordination.cli.main import app
from coordination.cli.suggestions import GUESSES, suggestions
from tests.support.command import Coord

ROOT: Any = typer.main.get_command(app)

MEANT = [
    ("ps", "coord status"),
    ("ps -a", "coord status"),
    ("top", "coord status"),
    ("logs fix -f", "coord tasks logs fix -f"),
    ("log fix", "coord tasks logs fix"),
    ("kill nightly", "coord runs cancel nightly"),
    ("kill fix", "coord tasks cancel fix"),
    ("cancel 'a b'", "coord tasks cancel 'a b'"),
    ("pause shop", "coord projects pause shop"),
    ("unpause shop", "coord projects resume shop"),
    ("list", "coord runs list"),
    ("ls", "coord tasks list"),
    ("restart nightly", "coord runs retry nightly"),
    ("rm nightly", "coord runs cancel nightly"),
    ("exec fix", "coord tasks shell fix"),
    ("tasks log fix --attempt 2", "coord tasks logs fix --attempt 2"),
    ("tasks kill fix", "coord tasks cancel fix"),
    ("tasks ls", "coord tasks list"),
    ("runs stop nightly", "coord runs cancel nightly"),
    ("projects hold shop", "coord projects pause shop"),
    ("projects activate shop", "coord projects resume shop"),
    ("budgets increase nightly 5", "coord budgets raise nightly 5"),
    ("accounts remove claude@work", "coord accounts unset claude@work"),
    ("accounts add claude@work KEY", "coord accounts set claude@work KEY"),
    # of another group
    ("forecast", "coord costs forecast"),
    ("force fix failed", "coord tasks force fix failed"),
    ("costs set", "coord prices set"),
    # typing mistakes
    ("statsu", "coord status"),
    ("TASKS", "coord tasks"),
    ("tasks lits nightly", "coord tasks list nightly"),
]


@pytest.mark.parametrize(("typed", "meant"), MEANT)
def test_an_unknown_command_suggests_the_one_that_was_meant(coord: Coord, typed: str, meant: str) -> None:
    import shlex

    answer = coord(*shlex.split(typed), code=REFUSED)

    assert f"\n  {meant}\n" in answer.err
    assert answer.out == ""
    assert not coord.home.exists()


def test_every_guess_is_a_command_that_there_is() -> None:
    for group, guesses in GUESSES.items():
        for typed, commands in guesses.items():
            result = suggestions(ROOT, group, typed, ["X"])
            assert len(result) == len(dict.fromkeys(commands)), (group, typed, result)


def test_what_resembles_nothing_names_the_help_of_its_group(coord: Coord) -> None:
    assert "See: coord --help" in coord("xyzzyx", code=REFUSED).err
    assert "See: coord prices --help" in coord("prices", "xyzzyx", code=REFUSED).err
    assert len(coord("x" * 10_000, code=REFUSED).err) < 200
    assert "\x1b" not in coord("lo\x1b[2Jgs", code=REFUSED).err


def test_a_command_that_there_is_takes_the_place_of_a_guess() -> None:
    app_with_ps = typer.Typer()
    app_with_ps.command("ps")(lambda: None)
    app_with_ps.command("status")(lambda: None)

    assert suggestions(typer.main.get_command(app_with_ps), "", "pss") == ["coord ps"]
