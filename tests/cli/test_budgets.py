"""Test budgets by command, on both databases: set in one line, shown with the remainder, refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordination.base import errors
from tests.support.command import Coord
from tests.support.refusals import check_refused


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "{version: 1, name: nightly, project: {name: shop}, budget: {usd: 2},"
        " tasks: [{key: a, agent: ann, budget: {tokens: 500}, run: {shell: 'true'}}]}"
    )
    return path


def test_budgets_are_set_shown_changed_and_taken_away(coord_on_each: Coord, plan: Path) -> None:
    coord = coord_on_each
    coord("submit", plan)

    output = coord("budgets", "set", "workspace", "--usd", "50", "--period", "month", "--warn-at", "90%").out
    assert output.startswith("Set the budget of the month of workspace default: $50.00; warns at 90%")
    assert "Spent $0.00, reserved $0.00, left $50.00." in output
    coord("budgets", "set", "agent", "ann", "--tokens", "1,000", "--on-exceed", "warn")
    coord("budgets", "set", "task", "a", "--run", "nightly", "--usd", "0.5", "--unpriced-calls", "2")
    coord("budgets", "raise", "nightly", "3.5")
    document = coord("budgets", "list", "--json").json["budgets"]
    assert [(one["scope"], one["name"], one["period"], one["usd"], one["tokens"]) for one in document] == [
        ("workspace", "default", "month", "50", None),
        ("agent", "ann", "total", None, 1000),
        ("run", "nightly", "total", "3.5", None),
        ("task", "a", "total", "0.5", 500),
    ]
    assert document[0]["left"] == {"usd": "50", "tokens": None, "starts": None}
    assert document[3]["max_unpriced_calls"] == 2
    lines = coord("budgets", "list").out.splitlines()
    assert [line.split()[:4] for line in lines[1:3]] == [
        ["workspace", "default", "month", "$50.00"],
        ["agent", "ann", "total", "1,000"],
    ]
    coord("budgets", "set", "task", "a", "--usd", "none")
    assert "500 tokens" in coord("budgets", "show", "task", "a").out
    assert coord("budgets", "check", "--json").json == {"checked": 4, "repaired": False, "wrong": []}

    coord("budgets", "remove", "agent", "ann")
    assert len(coord("budgets", "list", "--json").json["budgets"]) == 3


def test_a_cap_of_starts_is_set_shown_and_taken_away(coord_on_each: Coord, plan: Path) -> None:
    coord = coord_on_each
    coord("submit", plan)

    output = coord("budgets", "set", "project", "shop", "--starts", "1,000", "--period", "day").out
    assert output.startswith("Set the budget of the day of project shop: 1,000 starts; warns at 80%")
    assert "Spent $0.00, reserved $0.00, left 1,000 starts." in output
    (document,) = coord("budgets", "show", "project", "shop", "--json").json["budgets"]
    assert (document["max_starts"], document["left"]["starts"], document["percent"]) == (1000, 1000, 0)
    assert document["spent"] == {"usd": "0", "tokens": 0, "unpriced_calls": 0, "starts": 0}
    assert "1,000 starts" in coord("budgets", "list").out
    coord("projects", "change", "shop", "--budget", 'month={"starts": 50}')
    assert "0 of 50 starts of the month" in coord("projects", "show", "shop").out
    coord("budgets", "set", "project", "shop", "--period", "day", "--starts", "none", "--usd", "1")
    assert coord("budgets", "show", "project", "shop", "--json").json["budgets"][-1]["max_starts"] is None


REFUSED = [
    ("set", "agent", "bob", "--usd", "1"),
    ("set", "run", "nightly"),
    ("set", "run", "nightly", "--usd", "lots"),
    ("set", "run", "nightly", "--tokens", "1.5"),
    ("set", "run", "nightly", "--starts", "-1"),
    ("set", "run", "nightly", "--run", "nightly", "--usd", "1"),
    ("show", "project", "shop"),
]


def test_what_makes_no_sense_is_refused_in_one_sentence_and_changes_nothing(coord: Coord, plan: Path) -> None:
    coord("submit", plan)

    for words in REFUSED:
        check_refused(coord("budgets", *words, code=2))

    assert [one["usd"] for one in coord("budgets", "list", "--json").json["budgets"]] == ["2", None]


def test_raising_never_mixes_up_a_run_and_a_project_and_asks_for_the_period(coord_on_each: Coord, plan: Path) -> None:
    coord = coord_on_each
    plan.write_text(plan.read_text().replace("name: shop", "name: nightly"))
    coord("submit", plan)
    coord("budgets", "set", "project", "nightly", "--usd", "10", "--period", "month")

    both = coord("budgets", "raise", "nightly", "20", code=errors.REFUSED)

    exact = ["coord budgets raise run nightly 20", "coord budgets raise project nightly 20 --period month"]
    assert [line.strip() for line in both.err.splitlines()[1:]] == exact
    by_period = coord("budgets", "raise", "project", "nightly", "20", code=errors.REFUSED)
    assert [line.strip() for line in by_period.err.splitlines()[1:]] == exact[1:]
    caps = {(one["scope"], one["usd"]) for one in coord("budgets", "list", "--json").json["budgets"]}
    assert {("run", "2"), ("project", "10")} <= caps

    for command in exact:
        coord(*command.split()[1:])
    caps = {(one["scope"], one["usd"]) for one in coord("budgets", "list", "--json").json["budgets"]}
    assert {("run", "20"), ("project", "20")} <= caps
    coord("budgets", "set", "project", "nightly", "--usd", "100")
    several = coord("budgets", "raise", "project", "nightly", "200", code=errors.REFUSED).err
    assert ("--period total" in several, "--period month" in several) == (True, True)
    coord("budgets", "raise", "project", "nightly", "200", "--period", "total")


def test_raising_says_what_is_missing(coord: Coord, plan: Path) -> None:
    coord("submit", plan)
    coord("budgets", "set", "workspace", "--usd", "50")

    assert "workspace default: $60.00" in coord("budgets", "raise", "workspace", "60").out
    for words in (["5"], ["project", "5"], ["project", "shop", "5"], ["nowhere", "5"], ["run", "nightly", "much"]):
        refused = coord("budgets", "raise", *words, code=errors.REFUSED)
        assert refused.err.count("\n") == 1, refused.err
    assert "$50" not in coord("budgets", "list").out
