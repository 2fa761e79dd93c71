"""Test ``coord tasks list``: of the newest run, of any number of tasks, a few columns of each; on both databases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from coordination.base.errors import REFUSED
from coordination.store.reports.tasks import task_list
from tests.support.command import Coord


def plan_in(folder: Path, name: str, keys: int, project: str) -> Path:
    tasks = [{"key": f"{name}-{number}", "title": f"Ü {number}", "run": {"shell": "true"}} for number in range(keys)]
    tasks.append({"key": "last", "needs": [f"{name}-0"], "run": {"shell": "true"}})
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"version": 1, "name": name, "project": {"name": project}, "tasks": tasks}))
    return path


def test_without_a_run_it_is_the_newest_of_the_project_and_says_so(coord_on_each: Coord, tmp_path: Path) -> None:
    coord = coord_on_each
    assert "no runs yet" in coord("tasks", "list", code=REFUSED).err
    first = coord("submit", plan_in(tmp_path, "first", 2, "shop"), "--json").json["run"]
    second = coord("submit", plan_in(tmp_path, "second", 2, "shop"), "--json").json["run"]

    newest = coord("tasks", "list")
    assert newest.err == f"coord: the newest run of shop: second, {second}\n"
    assert [line.split()[:2] for line in newest.out.splitlines()] == [
        ["key", "state"],
        ["second-0", "queued"],
        ["second-1", "queued"],
        ["last", "blocked"],
    ]
    assert "dependencies" in newest.out
    assert "Ü 1" in newest.out
    document = coord("tasks", "list", first, "--json")
    assert document.err == ""
    assert document.json["run"] == {"id": first, "name": "first", "project": "shop"}
    assert [task["key"] for task in document.json["tasks"]] == ["first-0", "first-1", "last"]
    assert document.json["tasks"][2]["reasons"] == ["dependencies"]


def test_where_several_projects_may_be_meant_each_is_named_to_paste(coord: Coord, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        replace(coord, cwd=folder)("submit", plan_in(folder, name, 1, name))
    nowhere = replace(coord, cwd=tmp_path)

    refused = nowhere("tasks", "list", code=REFUSED)
    assert refused.err.splitlines()[1:] == ["  coord tasks list --project one", "  coord tasks list --project two"]
    assert "one-0" in nowhere("tasks", "list", "--project", "one").out
    several = nowhere("tasks", "show", "last", "--json", code=REFUSED)
    assert "  coord tasks show last --json --project two" in several.err.splitlines()
    assert nowhere("tasks", "show", "last", "--json", "--project", "two").json["key"] == "last"


def test_a_hint_names_the_newest_run_by_its_name(coord: Coord, tmp_path: Path) -> None:
    plan = plan_in(tmp_path, "nightly", 1, "shop")

    output = [coord("submit", plan).out for _ in range(2)]

    assert all(one.endswith("See: coord runs show nightly\n") for one in output)
    assert coord("runs", "show", "nightly", "--json").json["id"] in output[1]


def test_many_tasks_are_read_by_a_few_statements_and_not_all_at_once(coord_on_each: Coord, tmp_path: Path) -> None:
    coord = coord_on_each
    coord("submit", plan_in(tmp_path, "many", 2500, "shop"))

    listed = coord("tasks", "list", "--json").json["tasks"]

    assert [task["key"] for task in listed] == [*(f"many-{number}" for number in range(2500)), "last"]
    assert len(coord("tasks", "list").out.splitlines()) == 2502
    assert task_list._AT_ONCE <= 1000
    assert listed[0].keys() == {*task_list.TaskLine._fields, "run_id", "outdated"}


@pytest.mark.parametrize("title", ["two  words", "mixed \u05d0\u05d1", "x" * 500])
def test_a_task_is_one_line(coord: Coord, tmp_path: Path, title: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"version": 1, "tasks": [{"key": "a", "title": title, "run": {"shell": "true"}}]}))
    coord("submit", path)

    output = coord("tasks", "list").out

    assert len(output.splitlines()) == 2
    assert "\x1b" not in output
    assert coord("tasks", "list", "--json").json["tasks"][0]["key"] == "a"
