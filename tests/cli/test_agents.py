"""Test agents by command: create, change, clone, show with costs, and move to another home as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.command import Coord, coord_in
from tests.support.refusals import check_refused

PLAN = """
version: 1
name: mend
tasks:
  - {key: a, run: {agent: dave/vc, prompt: "Mend it"}}
  - {key: b, run: {agent: "role:reviewer", prompt: "Look at it"}}
  - {key: c, run: {shell: "true"}, agent: default}
"""


def test_an_agent_is_made_changed_shown_and_forgotten(coord_on_each: Coord) -> None:
    coord = coord_on_each
    coord("agents", "create", "dave/vc", "--runner", "claude", "--model", "m", "--label", "python", "--label", "fast")
    coord("agents", "change", "dave/vc", "--role", "mender", "--set", 'runner.args=["--max-turns", "5"]', "--default")
    coord("agents", "change", "dave/vc", "--set", "objective=Keep it green", "--set", "identity.personality=calm")
    coord("agents", "change", "dave/vc", "--model", "", "--set", "identity.personality=null")
    renamed = coord("agents", "rename", "dave/vc", "dave/shop")

    shown = coord("agents", "show", "dave/shop", "--json").json

    assert {key: shown[key] for key in ("runner", "labels", "identity", "objective", "active", "default")} == {
        "runner": {"agent": "claude", "args": ["--max-turns", "5"]},
        "labels": ["python", "fast"],
        "identity": {"role": "mender"},
        "objective": "Keep it green",
        "active": True,
        "default": True,
    }
    assert renamed.out == "Agent dave/vc is now dave/shop. See: coord agents show dave/shop\n"
    assert "model" not in shown
    assert (shown["tasks_open"], shown["tasks_completed"], shown["interactions"], shown["last_activity_at"]) == (
        *(0, 0, 0),
        None,
    )
    output = coord("agents", "show", "dave/shop").out
    assert "Keep it green" in output
    assert '["--max-turns", "5"]' in output
    coord("agents", "delete", "dave/shop")
    assert coord("agents", "list", "--json").json == {"agents": []}
    assert "No agents yet" in coord("agents", "list").out


def test_a_plan_gives_work_to_agents(coord_on_each: Coord, tmp_path: Path) -> None:
    coord = coord_on_each
    coord("agents", "create", "dave/vc", "--runner", "claude", "--default")
    coord("agents", "create", "ann", "--runner", "codex", "--role", "reviewer")
    coord("agents", "change", "ann", "--runner", "openai:gpt-5-mini")
    assert coord("agents", "show", "ann", "--json").json["runner"] == {"chat": "openai:gpt-5-mini"}
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)

    run = coord("submit", plan, "--json").json["run"]

    tasks = coord("tasks", "list", run, "--json").json["tasks"]
    assert {task["key"]: task["agent"] for task in tasks} == {"a": "dave/vc", "b": "ann", "c": "dave/vc"}
    listed = {agent["name"]: agent["tasks_open"] for agent in coord("agents", "list", "--json").json["agents"]}
    assert listed == {"ann": 1, "dave/vc": 2}
    assert "reviewer" in coord("agents", "list").out


def test_a_plan_that_asks_for_nobody_names_its_line(coord: Coord, tmp_path: Path) -> None:
    coord("agents", "create", "dave/vc", "--runner", "claude")
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.replace("dave/vc", "dave/cv"))

    refused = coord("submit", plan, code=2)

    check_refused(refused)


def test_agents_move_to_another_home(coord: Coord, tmp_path: Path) -> None:
    coord("agents", "create", "dave/vc", "--runner", "custom", "--set", 'runner.command=["tool"]', "--role", "mender")
    coord("agents", "clone", "dave/vc", "dave/shop")
    file = tmp_path / "agents.json"
    file.write_text(coord("agents", "export").out)
    (tmp_path / "other").mkdir()
    elsewhere = coord_in(tmp_path / "other")
    elsewhere("agents", "create", "dave/vc")

    output = elsewhere("agents", "import", file)

    assert output.out == "Imported 2 agents: dave/shop, dave/vc\n"
    assert elsewhere("agents", "export").json == json.loads(file.read_text())
    assert [one["name"] for one in coord("agents", "export", "dave/vc").json["agents"]] == ["dave/vc"]


def test_a_file_with_one_bad_agent_changes_nothing(coord: Coord, tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    for text in (
        '{"version": 1, "agents": [{"name": "a"}, {"name": "b c"}]}',
        '{"version": 2, "agents": []}',
        '{"version": 1, "agents": 5}',
        "[1",
    ):
        file.write_text(text)

        check_refused(coord("agents", "import", file, code=2))

    assert coord("agents", "list", "--json").json == {"agents": []}


def test_what_is_said_wrongly_is_one_sentence(coord: Coord) -> None:
    coord("agents", "create", "a")

    for arguments in (
        ("create", "a"),
        ("create", "b", "--set", "mood=good"),
        ("create", "b", "--set", "objective"),
        ("create", "b", "--set", "labels.x=1"),
        ("change", "a", "--set", "runner.agent.x=1"),
        ("show", "nobody"),
        ("clone", "a", "b c"),
    ):
        check_refused(coord("agents", *arguments, code=2))
