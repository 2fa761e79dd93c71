"""Test that unknown or ambiguous names are refused, and that a command uses its folder's project and prints it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coordination.base.errors import REFUSED
from tests.support.command import Coord

PLAN = """
version: 1
name: nightly
tasks:
  - {{key: build, run: {{shell: echo {0}}}}}
  - {{key: only-{0}, run: {{shell: echo}}}}
"""
NO_NAMES = ["", " ", "%", "_", "%%", "____", "b%", "_uild", "0", "01", "01a", "-", "----", "'", "\\", "*", "\0"]


@pytest.fixture
def shop(coord: Coord, tmp_path: Path) -> Callable[[str], Coord]:
    """Provide a project in a folder of that name with one run, and the command line in it."""

    def made(name: str) -> Coord:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "plan.yaml").write_text(PLAN.format(name))
        here = replace(coord, cwd=folder)
        here("submit", "plan.yaml")
        return here

    return made


def states(coord: Coord) -> list[str]:
    runs = coord("runs", "list", "--json").json["runs"]
    return [task["state"] for run in runs for task in tasks_of(coord, run["id"])]


def tasks_of(coord: Coord, run: str) -> list[dict[str, str]]:
    document: list[dict[str, str]] = coord("tasks", "list", run, "--json").json["tasks"]
    return document


@pytest.mark.parametrize("noun", ["tasks", "runs"])
def test_what_names_nothing_changes_nothing(shop: Callable[[str], Coord], noun: str) -> None:
    here = shop("a")
    before = states(here)

    for name in NO_NAMES:
        for command in ("cancel", "show"):
            answer = here(noun, command, "--", name, code=REFUSED)
            assert answer.err.count("\n") == 1
        assert states(here) == before, name


def test_a_part_of_an_id_names_what_it_alone_fits(shop: Callable[[str], Coord]) -> None:
    here = shop("a")
    run = here("runs", "list", "--json").json["runs"][0]["id"]
    build, other = tasks_of(here, run)
    common = build["id"][:8]
    assert other["id"].startswith(common)

    refused = here("tasks", "cancel", common, code=REFUSED)
    assert "matches several tasks" in refused.err

    assert here("tasks", "cancel", build["id"][-12:], "--json").json["task"] == build["id"]
    assert here("tasks", "show", build["id"].upper(), "--json").json["id"] == build["id"]
    assert [task["state"] for task in tasks_of(here, run)] == ["canceled", "queued"]


def test_a_command_acts_on_the_project_that_it_stands_in_and_says_which(shop: Callable[[str], Coord]) -> None:
    first, second = shop("a"), shop("b")  # the second has the newer run

    output = first("tasks", "cancel", "build").out
    ran = first("runs", "cancel", "nightly", "--json").json["run"]
    elsewhere = first("tasks", "cancel", "only-b", code=REFUSED)

    assert "project a" in output
    assert ran in output
    assert "in the project a" in elsewhere.err
    runs = {run["project"]: run for run in second("runs", "list", "--json").json["runs"]}
    assert runs["a"]["id"] == ran
    assert {task["state"] for task in tasks_of(second, runs["b"]["id"])} == {"queued"}
    assert "project b" in first("tasks", "cancel", "only-b", "--run", runs["b"]["id"]).out


def test_where_no_project_is_a_key_must_be_of_one_project_alone(shop: Callable[[str], Coord], tmp_path: Path) -> None:
    inside = [shop("a"), shop("b")]
    nowhere = replace(inside[0], cwd=tmp_path)

    refused = nowhere("tasks", "cancel", "build", code=REFUSED)

    assert "Several projects have a task 'build'" in refused.err
    assert "project b" in nowhere("tasks", "priority", "only-b", "5").out


UNSTORABLE = ["\0", "a\0b", "\ud800", "x\udcff", "\ufffe\udc80"]
LOOKUPS: list[tuple[str, ...]] = [
    *(("tasks", verb) for verb in ("show", "cancel", "retry", "output", "logs", "artifacts", "events")),
    *(("runs", verb) for verb in ("show", "cancel", "retry", "events")),
    *(("projects", verb) for verb in ("show", "pause", "resume", "complete", "archive", "gates")),
    *(("agents", verb) for verb in ("show", "change", "delete", "export")),
    *(("explain",), ("sessions", "show"), ("tasks", "list"), ("budgets", "show", "project"), ("costs", "list", "-p")),
]


def test_what_no_database_can_hold_names_nothing(coord_on_each: Coord, tmp_path: Path) -> None:
    coord_on_each("projects", "create", "shop", "--remote", "git@git.example.org:a/shop")
    for name in UNSTORABLE:
        for command in LOOKUPS:
            end = [name] if command[-1] == "-p" else ["--", name]
            answer = coord_on_each(*command, *end, code=REFUSED)
            assert answer.err.count("\n") == 1, (command, name, answer.err)


def test_a_name_without_end_is_quoted_in_short(coord: Coord) -> None:
    long = "x" * 50_000
    for command in LOOKUPS:
        answer = coord(*command, *([long] if command[-1] == "-p" else ["--", long]), code=REFUSED)
        assert len(answer.err) < 500, (command, answer.err[:300])
        assert "50,000 characters" in answer.err, (command, answer.err[:300])


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "x" * 70_000, "a\0b", "\ud800"])
def test_a_project_is_not_called_what_is_no_line(coord: Coord, name: str) -> None:
    coord("projects", "create", "shop", "--remote", "git@git.example.org:a/shop")

    for command in (("create", name, "--remote", "git@git.example.org:a/b"), ("change", "shop", "--name", name)):
        assert "A project's name" in coord("projects", *command, code=REFUSED).err

    assert [one["name"] for one in coord("projects", "list", "--json").json["projects"]] == ["shop"]
