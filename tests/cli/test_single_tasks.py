"""Test ``coord tasks create`` and ``assign`` on both stores: a task without a plan file, and its assignee."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordination.base.errors import REFUSED
from tests.support.command import Coord


@pytest.fixture
def coord(coord_on_each: Coord) -> Coord:
    coord_on_each("migrate")
    return coord_on_each


def test_a_task_is_a_run_of_its_own_or_of_one_that_exists(coord: Coord) -> None:
    created = coord("tasks", "create", "lint", "--shell", "true", "--title", "Look", "--json").json
    output = coord(
        "tasks", "create", "fix", "--agent", "claude", "--prompt", "Mend it", "--needs", "lint", "--run", "lint"
    )

    assert created["state"] == "queued"
    assert output.out.startswith("Created fix, which is blocked (project shop, run ")
    listed = coord("tasks", "list", created["run"], "--json").json["tasks"]
    assert [(one["key"], one["title"]) for one in listed] == [("lint", "Look"), ("fix", "fix")]
    assert coord("tasks", "show", "fix", "--json").json["work"]["agent"] == "claude"
    assert coord("runs", "list", "--json").json["runs"][0]["name"] == "lint"


def test_a_worktree_a_model_and_a_priority_are_as_a_plan_says_them(coord: Coord) -> None:
    output = ("--agent", "codex", "--prompt", "x", "--model", "gpt-5", "--checkout", "worktree", "--priority", "5")
    coord("tasks", "create", "a", *output)

    shown = coord("tasks", "show", "a", "--json").json
    assert (shown["work"]["model"], shown["priority"]) == ("gpt-5", 5)
    assert shown["options"]["checkout"]["kind"] == "git-worktree"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a",), "Give a command or an agent. Use --shell COMMAND, or --agent NAME with --prompt TEXT."),
        (("a", "--shell", "x", "--agent", "claude"), "Give a command or an agent."),
        (("a", "--agent", "claude"), "An agent needs a prompt."),
        (("a", "--shell", "x", "--prompt", "y"), "A command has no prompt and no model."),
        (("a b", "--shell", "x"), "cannot be a key"),
        (("a", "--shell", "x", "--needs", "b"), "it needs 'b'"),
        (("a", "--shell", "x", "--run", "nothing"), "There is no run 'nothing'"),
        (("a", "--shell", "x", "--checkout", "moon"), "moon"),
    ],
)
def test_what_is_wrong_is_a_sentence_and_nothing_is_stored(
    coord: Coord, arguments: tuple[str, ...], words: str
) -> None:
    result = coord("tasks", "create", *arguments, code=None)

    assert result.code != 0
    assert words in result.err
    assert coord("runs", "list", "--json").json["runs"] == []


def test_a_waiting_task_is_given_to_another_model_agent_or_person(coord: Coord) -> None:
    coord("tasks", "create", "a", "--agent", "claude", "--prompt", "Mend it")
    coord("tasks", "create", "b", "--shell", "cat", "--run", "a", "--needs", "a")
    coord("agents", "create", "bob", "--runner", "codex")

    assert coord("tasks", "assign", "a", "--model", "opus").out.startswith("Assigned a to claude with opus (")
    assert coord("tasks", "assign", "a", "bob").out.startswith("Assigned a to bob (")
    person = coord("tasks", "assign", "a", "--person", "ann").out.splitlines()

    assert person[0].startswith("Assigned a to ann (")
    assert person[1].startswith("When it is done: coord tasks answer a 'the result' --run ")
    assert "For ann: Mend it" in coord("questions").out
    assert "ann does it; when it is done: coord tasks answer a 'the result'" in coord("explain", "a").out
    assert coord("tasks", "answer", "a", "mended").out.startswith("Answer saved; a is completed (")
    assert coord("tasks", "output", "a").out.strip() == "mended"
    assert coord("questions", "--json").json == {"questions": []}
    assert coord("tasks", "show", "b", "--json").json["state"] == "queued"
    refused = coord("tasks", "assign", "a", "bob", code=REFUSED)
    assert "a is completed already. Reopen it first: coord tasks retry a." in refused.err
    assert "agent" in coord("tasks", "assign", "b", "bob", code=REFUSED).err


def test_a_run_that_has_ended_goes_on_with_a_new_task(coord: Coord, tmp_path: Path) -> None:
    coord("tasks", "create", "a", "--shell", "true")
    coord("tasks", "force", "a", "completed", "--reason", "done by hand")

    coord("tasks", "create", "b", "--shell", "true", "--run", "a", "--needs", "a")

    assert coord("tasks", "show", "b", "--json").json["state"] == "queued"
    assert [one["state"] for one in coord("runs", "list", "--json").json["runs"]] == ["open"]
