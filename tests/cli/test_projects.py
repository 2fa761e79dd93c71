"""Test projects by command: create, describe, pause, resume, limit, archive; their totals are counted, not stored."""

from __future__ import annotations

from pathlib import Path

from coordination.services import holds
from coordination.services.projects.projects import SETTINGS
from tests.support.command import Coord
from tests.support.refusals import check_refused


def test_a_project_is_one_under_every_spelling_of_its_remote_and_under_an_alias(coord_on_each: Coord) -> None:
    coord = coord_on_each
    coord("projects", "create", "shop", "--remote", "git@example.org:acme/shop.git", "--description", "sells things")

    again = coord("projects", "create", "other", "--remote", "https://example.org/acme/shop", code=2)
    coord("projects", "alias", "shop", "ssh://git@new.example.org:22/acme/store.git")

    check_refused(again)
    shown = coord("projects", "show", "new.example.org/acme/store", "--json").json
    assert (shown["name"], shown["status"], shown["description"]) == ("shop", "planning", "sells things")
    assert shown["aliases"] == ["new.example.org/acme/store"]


def test_what_a_project_came_to_is_counted_and_drilled_down(coord_on_each: Coord, plan: Path, tmp_path: Path) -> None:
    coord = coord_on_each
    coord("submit", plan)
    (session,) = coord("sessions", "list", "--json").json["sessions"]
    costs = tmp_path / "costs.jsonl"
    costs.write_text(
        '{"id":"c1","usage":{"model":"m","input_tokens":10,"output_tokens":5,"total_tokens":15,"cost_usd":0.1,'
        f'"timestamp":"2026-11-20T10:00:00Z"}},"session_id":"{session["id"]}"}}\n'
        '{"id":"c2","usage":{"model":"m","input_tokens":1,"output_tokens":1,"total_tokens":2,"cost_usd":0.2,'
        f'"timestamp":"2026-11-20T11:00:00Z"}},"session_id":"{session["id"]}"}}\n'
    )
    coord("costs", "import", costs)

    shown = coord("projects", "show", "shop", "--json").json
    records = coord("sessions", "show", session["id"], "--json").json

    assert shown["totals"] == {
        "cost_usd": "0.3",
        "calls": 2,
        "unpriced_calls": 0,
        "agents": 0,
        "sessions": 1,
        "runs": 1,
        "open_runs": 1,
        "tasks": 4,
    }
    assert [(one["id"], one["cost_usd"]) for one in shown["sessions"]] == [(session["id"], "0.3")]
    assert [record["id"] for record in records["costs"]] == ["c2", "c1"]
    assert "$0.30" in coord("projects", "list").out


def test_the_supervisors_answer_is_part_of_the_project(coord: Coord, plan: Path) -> None:
    coord("submit", plan)

    answer = coord("projects", "show", "shop", "--json").json["orchestrator"]

    assert (answer["status"], answer["isRunning"], answer["activeAgents"]) == ("running", True, [])
    assert {"lastPoll", "timeSinceLastPoll", "sessionKey", "state", "error"} <= answer.keys()


def test_a_held_project_says_so_until_it_is_activated(coord: Coord, plan: Path) -> None:
    coord("submit", plan)
    coord("projects", "pause", "shop")

    explanation = coord("explain", "a", "--json").json["task"]
    coord("projects", "resume", "shop")

    assert [blocker["kind"] for blocker in explanation["blockers"]] == ["on_hold", "no_worker"]
    assert coord("projects", "show", "shop", "--json").json["status"] == "active"


def test_a_project_with_open_work_is_not_ended(coord_on_each: Coord, plan: Path) -> None:
    coord = coord_on_each
    coord("submit", plan)

    refused = coord("projects", "archive", "shop", code=2)
    coord("runs", "cancel", "three")
    coord("projects", "complete", "shop")
    coord("projects", "archive", "shop")

    check_refused(refused)
    assert coord("projects", "list", "--json").json["projects"] == []
    assert [one["status"] for one in coord("projects", "list", "--archived", "--json").json["projects"]] == ["archived"]
    check_refused(coord("submit", plan, code=2))


def test_settings_are_json_and_null_takes_them_away(coord: Coord) -> None:
    coord("projects", "create", "shop")

    coord(
        "projects",
        "change",
        "shop",
        "--set",
        'supervisor={"strategy": "größer"}',
        "--set",
        "tech_stack=1",
        "--budget",
        "month=2.5",
        "--budget",
        'day={"usd": 1, "tokens": 5000}',
        "--name",
        "store",
    )
    twice = coord("projects", "change", "store", "--budget", "usd=2.5", code=2)
    coord(
        "projects",
        "change",
        "store",
        "--set",
        "tech_stack=null",
        "--budget",
        "day=null",
        "--models",
        'allow=["m"]',
        "--meta",
        'owner="me"',
    )
    refused = coord("projects", "change", "store", "--set", "tech_stack=oops", code=2)
    misspelt = coord("projects", "change", "store", "--set", "quiet_hour={}", code=2)
    unread = coord("projects", "change", "store", "--set", "x=1", code=2)
    coord("projects", "change", "store", "--set", "x=null")  # an earlier version may have stored it

    shown = coord("projects", "show", "store", "--json").json
    assert shown["settings"] == {"supervisor": {"strategy": "größer"}}
    (budget,) = shown["budgets"]
    assert (budget["period"], budget["usd"], budget["spent"]["usd"]) == ("month", "2.5", "0")
    assert "$0.00 of $2.50 of the month" in coord("projects", "show", "store").out
    assert [one["scope"] for one in coord("budgets", "list", "--json").json["budgets"]] == ["project"]
    check_refused(twice)
    assert (shown["model_restrictions"], shown["metadata"]) == ({"allow": ["m"]}, {"owner": "me"})
    check_refused(refused)
    check_refused(misspelt)
    check_refused(unread)


def test_settings_are_shown_as_json_one_per_line(coord: Coord) -> None:
    coord("projects", "create", "shop")
    hours = '{"from": "22:00", "to": "07:00"}'
    coord("projects", "change", "shop", "--set", f"quiet_hours={hours}", "--set", 'tech_stack="C, Go"')
    coord("projects", "change", "shop", "--models", 'deny=["big-*"]', "--meta", "on=true")

    lines = [line.split(maxsplit=1) for line in coord("projects", "show", "shop").out.splitlines()]

    assert [line for line in lines if len(line) == 2 and "=" in line[1]] == [
        ["settings", f"quiet_hours={hours}"],
        ["settings", 'tech_stack="C, Go"'],
        ["model_restrictions", 'deny=["big-*"]'],
        ["metadata", "on=true"],
    ]


def test_the_help_names_every_setting(coord: Coord) -> None:
    text = coord("projects", "change", "--help").out

    assert [name for name in (*SETTINGS, *holds.SETTINGS) if name not in text] == []


def test_limits_are_set_shown_and_taken_away(coord_on_each: Coord) -> None:
    coord = coord_on_each
    coord("projects", "create", "shop")

    coord("projects", "limit", "shop", "--project", "4", "--agent", "dave=2", "--key", "deploy=1")
    after = coord("projects", "limit", "shop", "--drop", "project", "--key", "deploy=3", "--json").json

    assert {slot["name"]: slot["cap"] for slot in after["limits"]} == {"agent:dave": 2, "key:deploy": 3}
    check_refused(coord("projects", "limit", "shop", "--key", "deploy", code=2))


def test_gates_are_set_shown_and_taken_away(coord_on_each: Coord) -> None:
    coord = coord_on_each
    coord("projects", "create", "shop", "--remote", "git@example.org:acme/shop.git")

    none = coord("projects", "gates", "shop", "--json").json
    set_now = coord("projects", "gates", "shop", "ruff check .", "pytest -q", "--timeout", "1h")
    shown = coord("projects", "gates", "shop", "--json").json
    wrong = coord("projects", "change", "shop", "--set", 'gates=[{"run": ""}]', code=2)
    both = coord("projects", "gates", "shop", "make", "--none", code=2)
    coord("projects", "gates", "shop", "--none")

    assert none == {"project": "shop", "gates": []}
    assert "pytest -q" in set_now.out
    assert "1h" in set_now.out
    assert shown["gates"] == [
        {"run": "ruff check .", "timeout": 3600.0},
        {"run": "pytest -q", "timeout": 3600.0},
    ]
    check_refused(wrong)
    check_refused(both)
    assert coord("projects", "show", "shop", "--json").json["settings"] == {}
