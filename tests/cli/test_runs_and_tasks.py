"""Test runs and tasks by command: their list, their ends, and why the rest does not progress."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from coordination.store.engine import open_store
from coordination.store.tables.jobs.output import output_chunks
from coordination.store.tables.tasks.attempts import attempts
from tests.support.command import Coord
from tests.support.refusals import check_refused
from tests.support.repositories import Checkout


@pytest.mark.full
def test_a_run_is_found_again_with_its_tasks_outputs_and_what_holds_the_rest(coord: Coord, plan: Path) -> None:
    coord.process("run", plan, code=1)

    (run,) = coord("runs", "list", "--json").json["runs"]
    shown = coord("runs", "show", "three", "--json").json
    people = coord("runs", "show", "three").out

    assert (run["state"], run["total"], run["counts"]) == ("stuck", 4, {"blocked": 2, "completed": 1, "failed": 1})
    assert {task["key"]: task["state"] for task in shown["tasks"]} == {
        "a": "completed",
        "b": "failed",
        "c": "blocked",
        "d": "blocked",
    }
    assert "waits for b, which is failed (exit status 3: broken); retry it with: coord tasks retry b" in people
    assert "inherited through c: waits for b" in people


def test_a_task_shows_its_attempts_output_log_and_story(coord: Coord, plan: Path) -> None:
    coord.process("run", plan, code=1)

    shown = coord("tasks", "show", "b", "--json").json

    assert (shown["state"], shown["attempts"][0]["exit_code"]) == ("failed", 3)
    assert coord("tasks", "output", "a").out == "hi\n"
    assert coord("tasks", "output", "a", "--json").json["output"] == "hi"
    assert "careful" in coord("tasks", "logs", "a").err
    pieces = coord("tasks", "logs", "b", "--json").json["pieces"]
    assert [(piece["stream"], piece["text"].strip()) for piece in pieces] == [("err", "broken")]
    types = [event["type"] for event in coord("tasks", "events", "b", "--json").json["events"]]
    assert types == ["created", "unblocked", "claimed", "started", "failed"]
    assert "failed" in coord("tasks", "list", "three").out


@pytest.mark.full
def test_an_output_without_line_ends_does_not_fill_the_screen(coord: Coord, plan: Path) -> None:
    line = "head -c 400000 /dev/zero | tr '\\\\0'"
    plan.write_text(
        f"""
version: 1
name: long
tasks:
  - {{key: long, run: {{shell: "{line} y; echo; echo end"}}}}
  - {{key: bad, run: {{shell: "{line} n >&2; echo worse >&2; exit 3"}}}}
"""
    )

    shown = coord.process("run", plan, code=1).out

    assert len(shown) < 12_000
    assert "y" * 1_000 in shown
    assert re.search(r"396,004 more characters: .*coord'? tasks output long\n", shown)
    assert "n" * 1_000 in shown
    assert "worse" in shown


def test_a_branch_on_which_nothing_is_is_not_offered(coord: Coord, plan: Path) -> None:
    plan.write_text("version: 1\ntasks: [{key: a, checkout: git-worktree, run: {shell: 'true'}}]\n")

    assert "git merge" not in coord.process("run", plan, code=1).out


@pytest.mark.full
def test_the_changes_of_a_run_are_counted_as_long_as_there_are_any(coord: Coord, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "shop")
    plan = checkout.path / "plan.yaml"
    tasks = "{key: a, run: {shell: 'printf \"1\\n2\\n\" > a.txt; echo >> readme.txt'}}, {key: b, run: {shell: 'true'}}"
    plan.write_text(f"version: 1\nname: changing\ndefaults: {{checkout: git-worktree}}\ntasks: [{tasks}]\n")

    shown = coord.process("run", plan).out
    checkout.git("merge", "-q", checkout.branches()[0])
    merged = coord("runs", "show", "changing").out
    plan.write_text("version: 1\ntasks: [{key: c, checkout: git-worktree, run: {shell: 'true'}}]\n")
    nothing = coord.process("run", plan).out

    assert "changes in 2 files (3 lines added, 0 deleted) on coord/" in shown
    assert "git merge coord/" in shown
    assert "git merge" not in merged
    assert "git merge" not in nothing


def test_explain_says_through_what_a_task_is_held(coord_on_each: Coord, plan: Path) -> None:
    coord = coord_on_each
    coord("submit", plan)

    first = coord("explain", "a", "--json").json["task"]
    last = coord("explain", "d", "--json").json["task"]

    assert [blocker["kind"] for blocker in first["blockers"]] == ["no_worker"]
    assert [(one["way"], one["key"], one["via"]) for one in last["blockers"]] == [
        ("direct", "c", []),
        ("inherited", "b", ["c"]),
        ("inherited", "a", ["c", "b"]),
    ]
    assert "waits for c, which is blocked" in coord("explain", "d").out


def test_a_run_is_canceled_and_retried_by_command(coord_on_each: Coord, plan: Path) -> None:
    coord = coord_on_each
    coord("submit", plan)

    assert coord("runs", "cancel", "three", "--why", "not today", "--json").json["canceled"] == 4
    assert coord("tasks", "show", "a", "--json").json["error"] == "not today"
    assert coord("runs", "retry", "three", "--json").json["retried"] == 4
    assert coord("runs", "show", "three", "--json").json["counts"] == {"blocked": 3, "queued": 1}


def test_a_task_is_canceled_retried_and_given_another_priority_by_command(coord: Coord, plan: Path) -> None:
    coord("submit", plan)

    assert coord("tasks", "priority", "a", "7", "--json").json["changed"] is True
    assert coord("tasks", "show", "a", "--json").json["priority"] == 7
    assert coord("tasks", "cancel", "c", "--json").json["canceled"] is True
    assert "is canceled already" in coord("tasks", "cancel", "c").out
    coord("tasks", "retry", "c")
    assert coord("tasks", "show", "c", "--json").json["state"] == "blocked"
    check_refused(coord("tasks", "retry", "a", code=2))


@pytest.mark.full
def test_a_story_that_is_followed_is_one_document_a_line_until_the_run_has_ended(coord: Coord, plan: Path) -> None:
    coord.process("run", plan, code=1)

    lines = coord("runs", "events", "three", "--follow", "--json").out.splitlines()
    whole = coord("runs", "events", "three", "--json").json["events"]

    assert [json.loads(line) for line in lines] == whole
    assert whole[0]["type"] == "run_submitted"


def test_what_is_not_there_is_said_with_where_to_look(coord: Coord) -> None:
    for command in (
        ("runs", "show", "nope"),
        ("tasks", "show", "nope"),
        ("explain", "nope"),
        ("projects", "show", "x"),
    ):
        output = coord(*command, code=2)

        check_refused(output)
        assert output.out == ""


def test_a_plan_is_checked_without_being_stored(coord: Coord, plan: Path) -> None:
    output = coord("check", plan, "--json").json

    assert (output["tasks"], output["dependencies"]) == (4, 3)
    assert not coord.home.exists()
    assert coord("schema", "plan").json["$schema"].startswith("https://json-schema.org/")


def test_a_check_warns_and_still_calls_the_plan_good(coord: Coord, plan: Path) -> None:
    plan.write_text(
        """
version: 1
tasks:
  - {key: a, run: {agent: claude, prompt: x, command: [no-such-agent], secrets: [NO_SUCH_KEY]}}
  - {key: b, run: {agent: claude, prompt: y, command: [no-such-agent]}}
  - {key: c, run: {shell: "no-such-program --now"}}
"""
    )

    people = coord("check", plan).out.splitlines()
    warnings = coord("check", plan, "--json").json["warnings"]

    assert [(one["code"], one["tasks"], one["name"]) for one in warnings] == [
        ("agents_in_one_folder", ["a", "b"], None),
        ("program_missing", ["a", "b"], "no-such-agent"),
        ("program_missing", ["c"], "no-such-program"),
        ("key_missing", ["a"], "NO_SUCH_KEY"),
    ]
    assert [line.startswith("warning: ") for line in people] == [True] * 4 + [False] * 2
    assert people[-1] == f"Run it with: coord run {plan}"


def test_outdated_tasks_are_shown_wherever_tasks_are_until_they_are_done_again(
    coord_on_each: Coord, plan: Path
) -> None:
    coord = coord_on_each
    plan.write_text(
        "version: 1\nname: two\ntasks: [{key: a, run: {shell: x}}, {key: b, needs: [a], run: {shell: y}}]\n"
    )
    coord("submit", plan)
    for key in ("a", "b"):
        coord("tasks", "force", key, "completed", "--reason", "by hand")
    coord("tasks", "force", "a", "queued", "--reason", "it was wrong")
    coord("tasks", "force", "a", "completed", "--reason", "by hand")

    again = "run it again with: coord tasks force b queued --reason 'it is outdated'"
    assert again in coord("explain", "b").out
    assert again in coord("tasks", "show", "b").out
    assert again in coord("runs", "show", "two").out
    assert "completed, outdated" in coord("tasks", "list", "two").out
    assert "b of run" in coord("status").out
    (shown,) = coord("status", "--json").json["outdated"]
    assert (shown["task"], shown["need"], shown["need_state"]) == ("b", "a", "completed")
    assert [len(task["outdated"]) for task in coord("tasks", "list", "two", "--json").json["tasks"]] == [0, 1]
    assert coord("runs", "show", "two", "--json").json["tasks"][1]["outdated"][0]["need"] == "a"

    coord("tasks", "force", "b", "queued", "--reason", "it is outdated")

    assert coord("status", "--json").json["outdated"] == []
    assert "outdated" not in coord("runs", "show", "two").out


def test_the_logs_of_a_job_that_printed_nothing_say_so(coord: Coord, plan: Path) -> None:
    plan.write_text("version: 1\ntasks: [{key: silent, run: {shell: 'exit 3'}}]\n")
    coord.process("run", plan, code=1)

    printed = coord("tasks", "logs", "silent")

    assert (printed.out, printed.err) == ("", "coord: no output\n")


@pytest.mark.full
def test_logs_show_what_gates_and_merges_said_after_what_the_job_printed(coord: Coord, plan: Path) -> None:
    coord.process("run", plan, code=1)
    task = coord("tasks", "show", "b", "--json").json["id"]
    store = open_store(f"sqlite:///{coord.home / 'coordination.db'}")
    with closing(store), store.write() as tx:
        workspace = tx.execute(select(attempts.c.workspace_id).where(attempts.c.task_id == task)).scalar_one()
        mine = {"task_id": task, "attempt": 1, "workspace_id": workspace}
        pieces = [["out", "one\n"], ["err", "[gate x] of its own\n"]]
        tx.execute(insert(output_chunks).values(slot=0, position=0, size=4, pieces=pieces, **mine))
        log = "[gate x] of its own\nbroken\n[gate pytest] exit status 1 (2s)\n2 failed\n[worktree] kept until Friday"
        tx.execute(update(attempts).where(attempts.c.task_id == task).values(log=log))

    output = coord("tasks", "logs", "b")

    assert output.out == "one\n"
    assert output.err == (
        "[gate x] of its own\n[gate pytest] exit status 1 (2s)\n2 failed\n[worktree] kept until Friday\n"
    )
