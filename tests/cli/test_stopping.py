"""Test ``coord stop`` and ``coord start`` without a stack: their output, and what other commands print about a stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Coord
from tests.support.refusals import check_refused


def test_a_stop_is_said_by_every_command_that_a_person_asks(coord_on_each: Coord, plan: Path) -> None:
    coord = coord_on_each
    coord("submit", plan)

    stopped = coord("stop", "--project", "shop", "--reason", "it deletes files")

    assert "The project shop is stopped since" in stopped.out
    assert stopped.out.endswith(
        "Nothing is running; 0 attempts were in flight. Continue with: coord start --project shop\n"
    )
    for command in ("status", "doctor", "explain a"):
        output = coord(*command.split(), code=None).out
        assert "The project shop is stopped since" in output, command
        assert "(it deletes files)" in output, command
        assert "coord start --project shop" in output, command
    assert "planning" not in coord("projects", "list").out
    assert "active (stopped)" in coord("projects", "list").out
    assert coord("projects", "show", "shop", "--json").json["stopped"] is True
    assert coord("status", "--json").json["stops"][0]["reason"] == "it deletes files"
    assert coord("explain", "a", "--json").json["task"]["blockers"][0]["kind"] == "stopped"
    assert "is stopped since" in coord("submit", plan).err
    document = coord("doctor", "--live", "--json", code=None).json["findings"]
    assert [(one["subject"], one["wrong"]) for one in document if one["code"] == "stopped"] == [("shop", False)]


def test_what_stop_and_start_say_when_repeated(coord: Coord, plan: Path) -> None:
    coord("submit", plan)
    coord("stop", "--project", "shop")
    first = coord("stop", "--json").json

    again = coord("stop", "--json", "--now").json

    assert (first["new"], again["new"], again["silent"], again["attempts"]) == (True, False, True, [])
    assert again["stop"] == {**first["stop"], "now": True}
    assert "The workspace is stopped already since" in coord("stop").out
    started = coord("start").out
    assert started.startswith("The workspace is started again.\nThe project shop is stopped since")
    assert "Start it with: coord start --project shop" in started
    assert coord("start").out.startswith("The workspace was not stopped.\n")
    assert coord("start", "--project", "shop", "--json").json["still"] == []
    assert "stopped" not in coord("status").out


def test_a_person_activates_a_project_that_is_stopped(coord: Coord, plan: Path) -> None:
    coord("submit", plan)
    coord("projects", "pause", "shop")
    coord("stop")

    output = coord("projects", "resume", "shop")

    assert "The workspace is stopped since" in output.err
    assert "active (stopped)" in coord("projects", "list").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("stop", "--project", "nobody"),
        ("start", "--project", "nobody"),
        ("stop", "--timeout", "soon"),
        ("stop", "--reason", "x" * 501),
        ("stop", "--reason", "two\nlines"),
    ],
)
def test_bad_input_stops_nothing(coord: Coord, arguments: tuple[str, ...]) -> None:
    check_refused(coord(*arguments, code=2))

    assert "stopped" not in coord("status").out
