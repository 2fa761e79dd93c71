"""Test Beads issues by command: no loss in either direction, the ready ones as in Beads, worked off in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Coord
from tests.support.refusals import check_refused

DATA = Path(__file__).resolve().parent.parent / "data"
FILES = ("beads-385c0c0-issues.jsonl", "vc-f0d2be6-issues.jsonl")
RULES = {"beads-1.0": "ready_v1_0_5", "beads-0.47": "ready_v0_47_1"}
NOW = ("--now", "2027-01-01T00:00:00Z")

CHAIN = [
    {"id": "x-1", "title": "first", "status": "open", "priority": 1, "updated_at": "2025-01-01T00:00:00Z"},
    {
        "id": "x-2",
        "title": "second {{ not a template }}",
        "status": "open",
        "priority": 0,
        "updated_at": "2025-01-01T00:00:00Z",
        "unknown": {"kept": 1.5},
        "dependencies": [{"issue_id": "x-2", "depends_on_id": "x-1", "type": "blocks"}],
    },
    {"id": "x-3", "title": "done before", "status": "closed", "priority": 0, "closed_at": "2025-01-02T00:00:00Z"},
]


def expected(name: str, rules: str) -> list[str]:
    return json.loads((DATA / "ready_expected.json").read_text())[name][RULES[rules]]


def written(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("name", FILES)
def test_what_was_imported_is_exported_byte_by_byte(coord_on_each: Coord, tmp_path: Path, name: str) -> None:
    coord = coord_on_each
    coord("import", "beads", DATA / name)

    coord("export", "beads", tmp_path / "out.jsonl")

    assert (tmp_path / "out.jsonl").read_bytes() == (DATA / name).read_bytes()
    assert coord("export", "beads").out.encode() == (DATA / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rules", RULES)
def test_the_ready_issues_of_a_file_are_those_that_beads_names_in_its_order(
    coord: Coord, name: str, rules: str
) -> None:
    output = coord("ready", "--beads", DATA / name, "--rules", rules, *NOW, "--json").json

    assert output["rules"] == rules
    assert [issue["id"] for issue in output["ready"]] == expected(name, rules)


def test_the_ready_issues_of_the_store_are_those_of_the_file(coord_on_each: Coord) -> None:
    coord_on_each("import", "beads", DATA / FILES[0])

    for rules in RULES:
        output = coord_on_each("ready", "--rules", rules, *NOW, "--json").json
        assert [issue["id"] for issue in output["ready"]] == expected(FILES[0], rules)


def test_an_import_takes_the_place_of_the_one_before(coord: Coord, tmp_path: Path) -> None:
    coord("import", "beads", DATA / FILES[0])

    output = coord("import", "beads", written(tmp_path / "x.jsonl", CHAIN), "--json").json

    assert (output["issues"], output["replaced"]) == (3, 704)
    assert [json.loads(line)["id"] for line in coord("export", "beads").out.splitlines()] == ["x-1", "x-2", "x-3"]


def test_a_bad_line_refuses_the_file_and_leaves_the_issues_before(coord: Coord, tmp_path: Path) -> None:
    coord("import", "beads", written(tmp_path / "x.jsonl", CHAIN))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "y-1", "title": "good"}\n{"id": "y-2"}\n')

    output = coord("import", "beads", bad, code=2)

    check_refused(output)
    assert len(coord("export", "beads").out.splitlines()) == len(CHAIN)


def test_without_issues_the_rules_of_beads_have_nothing_to_say(coord: Coord, plan: Path) -> None:
    coord("submit", plan)

    output = coord("ready", "--rules", "beads-1.0", code=2)

    check_refused(output)


def test_without_issues_ready_are_the_projects_own_tasks(coord: Coord, plan: Path) -> None:
    coord("submit", plan)

    output = coord("ready", "--json").json

    assert [task["key"] for task in output["ready"]] == ["a"]


@pytest.mark.full
def test_the_open_issues_are_worked_off_in_the_order_of_their_dependencies(coord: Coord, tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", CHAIN)
    log = tmp_path / "order"

    agent = f"shell:echo \"$COORD_ISSUE_ID $COORD_ISSUE_TITLE\" >> '{log}'"

    output = coord.process("run", "--beads", file, "--agent", agent)

    assert "2 completed" in output.out
    assert log.read_text().splitlines() == ["x-1 first", "x-2 second {{ not a template }}"]


def test_an_issue_whose_job_has_completed_is_shown_and_written_as_closed(coord: Coord, tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", CHAIN)
    coord.process("run", "--beads", file, "--agent", "shell:test $COORD_ISSUE_ID = x-1", code=1)

    closed, still_open, untouched = map(json.loads, coord("export", "beads", "--project", "shop").out.splitlines())

    assert (closed["status"], closed["updated_at"]) == ("closed", closed["closed_at"])
    assert still_open == CHAIN[1]
    assert untouched == CHAIN[2]
    assert [issue["id"] for issue in coord("ready", "--json").json["ready"]] == ["x-2"]


@pytest.mark.full
def test_a_python_function_is_handed_the_issue(coord: Coord, tmp_path: Path) -> None:
    (coord.cwd / "agents.py").write_text("def work(issue):\n    return [issue['id'], issue['title']]\n")
    file = written(tmp_path / "x.jsonl", CHAIN[:1])

    output = coord.process("run", "--beads", file, "--agent", "python:agents:work", "--json").json

    assert output["tasks"][0]["output"] == ["x-1", "first"]


def test_nobody_to_work_the_issues_off_is_refused(coord: Coord, tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", CHAIN)

    check_refused(coord("run", "--beads", file, code=2))
    check_refused(coord("run", "--beads", file, "--agent", "claude", code=2))


def test_what_gets_no_job_is_named_with_its_reason(coord: Coord, tmp_path: Path) -> None:
    later = {"id": "x-4", "title": "later", "status": "open", "defer_until": "2100-01-01T00:00:00Z"}
    file = written(tmp_path / "x.jsonl", [*CHAIN, later])

    output = coord("submit", "--beads", file, "--agent", "shell:true")

    assert "x-4: it is deferred until 2100-01-01" in output.err


def test_explain_names_every_blocker_of_an_issue_and_its_way(coord: Coord, tmp_path: Path) -> None:
    records = [
        *CHAIN,
        {
            "id": "x-5",
            "title": "child",
            "status": "open",
            "defer_until": "2100-01-01T00:00:00Z",
            "dependencies": [
                {"issue_id": "x-5", "depends_on_id": "x-2", "type": "parent-child"},
                {"issue_id": "x-5", "depends_on_id": "x-1", "type": "blocks"},
                {"issue_id": "x-5", "depends_on_id": "gone", "type": "blocks"},
            ],
        },
    ]
    coord("import", "beads", written(tmp_path / "x.jsonl", records))

    output = coord("explain", "x-5", "--json").json["issue"]
    people = coord("explain", "x-5").out

    assert {(one["way"], one["id"]) for one in output["blockers"]} == {
        ("direct", "x-1"),
        ("inherited", "x-1"),
        ("deferred", "x-5"),
        ("dangling", "gone"),
    }
    assert "blocked directly by x-1 (open)" in people
    assert "through x-2" in people


def test_a_dependency_that_names_nothing_keeps_no_file_out_and_is_named(coord: Coord, tmp_path: Path) -> None:
    nothing = [{"issue_id": "x-2", "depends_on_id": "", "type": "blocks"}]
    file = written(
        tmp_path / "issues.jsonl", [{"id": "x-1", "title": "a"}, *[{**CHAIN[1], "dependencies": nothing * 30}]]
    )

    done = coord("import", "beads", file)
    as_json = coord("import", "beads", file, "--json")

    assert done.err.splitlines()[0] == f"{file}:2: a dependency of 'x-2' has no target, and was ignored."
    assert done.err.splitlines()[-1] == "and 10 more lines like these"
    assert len(as_json.json["notes"]) == 30
    assert [one["id"] for one in coord("ready", "--json").json["ready"]] == ["x-1", "x-2"]
    coord("export", "beads", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == file.read_bytes()


def test_a_file_whose_parents_go_round_is_imported_and_nobody_waits_for_ever(coord: Coord, tmp_path: Path) -> None:
    cycle = [
        {"id": one, "title": one, "dependencies": [{"issue_id": one, "depends_on_id": up, "type": "parent-child"}]}
        for one, up in (("a", "b"), ("b", "c"), ("c", "a"))
    ]

    coord("import", "beads", written(tmp_path / "issues.jsonl", cycle))

    assert {one["id"] for one in coord("ready", "--json").json["ready"]} == {"a", "b", "c"}
    assert "ready" in coord("explain", "a").out


def test_work_on_another_file_says_what_it_would_replace_and_does_so_only_when_told(
    coord_on_each: Coord, tmp_path: Path
) -> None:
    coord, agent = coord_on_each, ("--agent", "shell:true")
    one = written(tmp_path / "one.jsonl", CHAIN)
    other = written(tmp_path / "other.jsonl", [{**CHAIN[0], "id": "y-1"}, CHAIN[2]])
    coord("submit", "--beads", one, *agent)
    coord("submit", "--beads", one, *agent)  # the same issues again delete nothing

    refused = coord("submit", "--beads", other, *agent, code=2)
    assert "2 of its 3 are not in the file (x-1, x-2)" in refused.err
    assert "--replace" in refused.err
    assert len(coord("runs", "list", "--json").json["runs"]) == 2
    assert [json.loads(line)["id"] for line in coord("export", "beads").out.splitlines()] == ["x-1", "x-2", "x-3"]

    coord("submit", "--beads", other, *agent, "--replace")
    assert [json.loads(line)["id"] for line in coord("export", "beads").out.splitlines()] == ["y-1", "x-3"]
