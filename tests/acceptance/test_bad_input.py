"""Test bad input and bad environments: one clear sentence on stderr, exit code 2, nothing stored, no traceback."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from tests.support.command import CommandResult, Coord, coord_in
from tests.support.processes import Processes

HEAD = b"version: 1\nproject: {name: p}\ntasks:\n"
GOOD = HEAD + b'  - {key: a, run: {shell: "true"}}\n'

BROKEN = {
    "syntax": (HEAD + b"  - {key: a, run: {shell: \n", "plan.yaml"),
    "unknown key": (HEAD + b'  - {key: a, rum: {shell: "true"}}\n', "rum"),
    "wrong type": (HEAD + b'  - {key: a, run: {shell: "true"}, priority: high}\n', "priority"),
    "cycle": (HEAD + b"  - {key: a, needs: [b], run: {shell: x}}\n  - {key: b, needs: [a], run: {shell: x}}\n", "a"),
    "unknown task": (HEAD + b'  - {key: a, needs: [nobody], run: {shell: "true"}}\n', "nobody"),
    "duplicate task": (HEAD + b"  - {key: a, run: {shell: x}}\n  - {key: a, run: {shell: x}}\n", "'a'"),
    "long title": (HEAD + b'  - {key: a, run: {shell: "true"}, title: "' + b"x" * 100_000 + b'"}\n', "100,000"),
    "large file": (GOOD + b"#" * 10_500_000, "plan.yaml"),
    "not UTF-8": (HEAD + b'  - {key: a, run: {shell: "\xff\xfe"}}\n', "UTF-8"),
    "empty": (b"", "plan.yaml"),
}


@pytest.fixture
def coord(tmp_path: Path) -> Coord:
    return coord_in(tmp_path)


def one_sentence(said: CommandResult) -> str:
    """Return the error message, after checking that it is one usable sentence."""
    assert said.code == 2, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("coord: ")
    assert lines[0].endswith((".", "?", "!"))
    assert len(lines[0]) < 1000
    return lines[0]


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plan_is_refused_whole(coord: Coord, tmp_path: Path, what: str) -> None:
    content, named = BROKEN[what]
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(content)

    for command in ("run", "submit", "check"):
        assert named in one_sentence(coord(command, plan, code=None))
    assert not coord.home.exists()


def test_a_plan_that_is_not_there_is_said_so(coord: Coord, tmp_path: Path) -> None:
    output = one_sentence(coord.process("run", tmp_path / "none.yaml", code=None))

    assert "none.yaml" in output


def test_debug_shows_where_it_was_refused(coord: Coord, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(BROKEN["cycle"][0])

    output = coord.process("--debug", "run", plan, code=2)

    assert "Traceback" in output.err
    assert "PlanError" in output.err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"id": "x-2"}', "title"),
        (b"{oops", "JSON"),
        (b'{"id": "x-1", "title": "again"}', "line 1"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_bad_line_of_a_beads_file_is_named(coord: Coord, tmp_path: Path, line: bytes, why: str) -> None:
    file = tmp_path / "issues.jsonl"
    file.write_bytes(b'{"id": "x-1", "title": "good"}\n' + line + b"\n")

    for command in (
        ("import", "beads", file),
        ("run", "--beads", file, "--agent", "shell:true"),
        ("ready", "--beads", file),
    ):
        output = one_sentence(coord(*command, code=None))
        assert f"{file}:2:" in output
        assert why in output
    assert not coord.home.exists()


def test_a_database_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(GOOD)
    coord = coord_in(tmp_path, COORD_DATABASE_URL="postgresql://me:secret@127.0.0.1:1/none")

    for command in (("run", plan), ("submit", plan), ("status",), ("migrate",)):
        output = one_sentence(coord(*command, code=None))
        assert "127.0.0.1:1" in output
        assert "COORD_DATABASE_URL" in output
        assert "secret" not in output


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_redis_that_cannot_be_reached_stops_a_run_before_it_is_stored(command: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(GOOD)
    coord = coord_in(tmp_path, COORD_REDIS_URL="redis://:secret@127.0.0.1:1/0")

    output = one_sentence(coord(command, plan, code=None))

    assert "127.0.0.1:1" in output
    assert "COORD_REDIS_URL" in output
    assert "secret" not in output
    assert coord("runs", "list", "--json").json == {"runs": []}


def test_a_schema_that_is_newer_than_the_program_is_left_alone(coord: Coord, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(GOOD)
    coord("status")
    database = sqlite3.connect(coord.home / "coordination.db")
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.execute("UPDATE schema_compatibility SET works_with = '9999'")
    database.commit()

    output = [one_sentence(coord(*command, code=None)) for command in (("run", plan), ("submit", plan), ("up",))]

    assert all("newer than this program" in sentence and "Upgrade" in sentence for sentence in output)
    assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    database.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(GOOD)
    if os.geteuid() == 0:  # no permission stops root; the kernel's own folders do
        home = Path("/proc/coordination")
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        home = tmp_path / "closed" / "home"
    coord = coord_in(tmp_path)
    coord = Coord(home=home, cwd=coord.cwd)

    for command in (("run", plan), ("submit", plan), ("up",), ("status",)):
        assert str(home) in one_sentence(coord(*command, code=None))


def test_a_file_in_the_place_of_the_home_is_named(coord: Coord) -> None:
    coord.home.write_text("in the way")

    assert str(coord.home) in one_sentence(coord("status", code=None))
    assert coord.home.read_text() == "in the way"


def test_a_second_stack_on_one_home_is_refused_and_the_first_lives_on(coord: Coord, processes: Processes) -> None:
    processes.start_python("-m", "coordination.cli", "up", env=coord.environment, cwd=coord.cwd).wait_for("stack is up")

    output = one_sentence(coord("up", code=None))

    assert str(coord.home) in output
    assert coord("status", "--json").json["queues"]["reachable"] is True


def test_an_output_that_cannot_be_written_leaves_what_was_there(coord: Coord, tmp_path: Path) -> None:
    file = tmp_path / "issues.jsonl"
    file.write_bytes(b'{"id": "x-1", "title": "good"}\n')
    coord("import", "beads", file)

    output = one_sentence(coord("export", "beads", tmp_path / "no" / "such" / "folder.jsonl", code=None))

    assert "cannot be written" in output


def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    coord = coord_in(tmp_path, COORD_LEASE_TTL="soon")

    assert "COORD_LEASE_TTL" in one_sentence(coord("status", code=None))
