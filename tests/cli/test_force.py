"""Test ``coord tasks force``: its output, its refusals, and its exit codes."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Coord
from tests.support.refusals import check_refused


def test_a_task_is_forced_and_its_story_tells_who_and_why(coord: Coord, plan: Path) -> None:
    coord("submit", plan)
    key = coord("tasks", "list", coord("runs", "list", "--json").json["runs"][0]["id"], "--json").json["tasks"][0][
        "key"
    ]

    output = coord("tasks", "force", key, "completed", "--reason", "done by hand", "--output", '{"n": 1}')
    shown = coord("tasks", "output", key, "--json").json
    story = coord("tasks", "events", key, "--json").json["events"]

    assert output.out.startswith(f"{key} was queued and is completed now (project shop, run ")
    assert shown["output"] == {"n": 1}
    forced = next(event for event in story if event["type"] == "forced")
    assert forced["payload"] == {"from": "queued", "to": "completed", "reason": "done by hand"}
    assert forced["actor"].startswith("user:")


def test_what_is_refused_is_said_in_one_sentence_and_changes_nothing(coord: Coord, plan: Path) -> None:
    coord("submit", plan)
    key = coord("tasks", "list", coord("runs", "list", "--json").json["runs"][0]["id"], "--json").json["tasks"][0][
        "key"
    ]

    unknown = coord("tasks", "force", key, "finished", "--reason", "x", code=2)
    nonsense = coord("tasks", "force", key, "running", "--reason", "x", code=2)
    without = coord("tasks", "force", key, "failed", "--reason", " ", code=2)
    missing = coord("tasks", "force", key, "failed", code=2)

    check_refused(unknown)
    check_refused(nonsense)
    check_refused(without)
    assert "--reason" in missing.err
    assert {output.out for output in (unknown, nonsense, without, missing)} == {""}
    assert coord("tasks", "show", key, "--json").json["state"] == "queued"
