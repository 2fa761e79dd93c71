"""Test ``coord doctor --live`` as people and programs call it, and the warning about a mistyped variable."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from coordination.base.host import job_processes
from coordination.base.ids import new_id
from tests.support.command import Coord, coord_in
from tests.support.processes import Processes, until
from workers.runners.environment import MARKER


def edit(coord: Coord, statement: str) -> None:
    with sqlite3.connect(coord.home / "coordination.db") as database:
        database.execute(statement)
    database.close()


def codes(coord: Coord, *, code: int) -> list[str]:
    output = coord("doctor", "--live", "--json", code=code).json
    assert output["healthy"] is (code == 0)
    # Other users' jobs on this machine have processes that are not in these databases.
    return [finding["code"] for finding in output["findings"] if finding["code"] != "stranger_process"]


def test_a_fresh_machine_is_well_and_nothing_is_made_on_it(coord: Coord) -> None:
    output = coord("doctor", "--live")

    assert output.out.endswith("All is well.\n")
    assert not coord.home.exists()


def test_work_without_a_worker_is_wrong_and_the_remedy_is_named(coord: Coord, plan: Path) -> None:
    coord("submit", plan)

    output = coord("doctor", "--live", code=1)

    assert "queue_without_workers" in output.out
    assert "coord worker" in output.out
    assert output.out.endswith("Something is wrong.\n")
    assert codes(coord, code=1) == ["queue_without_workers"]


@pytest.mark.full
def test_a_running_stack_is_well(coord: Coord, plan: Path, processes: Processes) -> None:
    processes.start_python("-m", "coordination.cli", "up", env=coord.environment, cwd=coord.cwd).wait_for("stack is up")
    coord.process("run", plan, code=None)

    assert codes(coord, code=0) == []


def test_a_changed_schema_is_named_although_its_number_fits(coord: Coord) -> None:
    coord("status")
    edit(coord, "DROP INDEX ix_attempts_unfinished")

    output = coord("doctor", "--live", "--json", code=1).json

    (finding,) = output["findings"]
    assert finding["code"] == "schema_drift"
    assert "the index ix_attempts_unfinished of attempts is missing" in finding["sentence"]


def test_what_cannot_be_reached_is_a_finding_without_its_password(tmp_path: Path) -> None:
    coord = coord_in(
        tmp_path,
        COORD_DATABASE_URL="postgresql://me:secret@127.0.0.1:1/none",
        COORD_REDIS_URL="redis://:hidden@127.0.0.1:1/0",
    )

    output = coord("doctor", "--live", code=1)

    assert codes(coord, code=1) == ["redis_unavailable", "database_unavailable"]
    assert "secret" not in output.out + output.err
    assert "hidden" not in output.out + output.err


def test_a_process_that_outlived_its_attempt_is_found_by_its_marker(
    coord: Coord, plan: Path, processes: Processes
) -> None:
    coord("submit", plan)
    coord("status")
    task = coord("tasks", "list", coord("runs", "list", "--json").json["runs"][0]["id"], "--json").json["tasks"][0]
    coord("tasks", "force", task["key"], "completed", "--reason", "done by hand")
    edit(coord, "UPDATE attempts SET finished_at = '2020-01-01T00:00:00.000000+00:00'")
    left = processes.start("sleep", "60", env={MARKER: f"{task['id']}.1.abcdef"})
    other_process = processes.start("sleep", "60", env={MARKER: f"{new_id()}.7.abcdef"})
    until(lambda: {left.pid, other_process.pid} <= set(job_processes()), what="both processes")

    findings = coord("doctor", "--live", "--json", code=1).json["findings"]

    mine = {finding["code"]: finding for finding in findings if str(left.pid) in finding["subject"]}
    other = {finding["code"]: finding for finding in findings if str(other_process.pid) in finding["subject"]}
    assert mine.keys() == {"orphan_process"}
    assert f"kill -9 {left.pid}" in mine["orphan_process"]["hint"]
    assert other.keys() == {"stranger_process"}
    assert other["stranger_process"]["wrong"] is False


class TestMistypedVariables:
    @pytest.mark.parametrize("command", [("status",), ("doctor", "--json"), ("runs", "list", "--json")])
    def test_every_command_warns_in_one_line_and_works_all_the_same(
        self, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        coord = coord_in(tmp_path, COORD_SLOT="4", COORD_PINEAPPLE="1")

        output = coord(*command)

        assert output.err.splitlines() == [
            "coord: COORD_PINEAPPLE is not a setting; it is ignored",
            "coord: COORD_SLOT is not a setting; did you mean COORD_SLOTS?",
        ]

    def test_the_doctor_counts_it_as_wrong(self, tmp_path: Path) -> None:
        coord = coord_in(tmp_path, COORD_REDIS_ULR="redis://nowhere")

        (finding,) = coord("doctor", "--live", "--json", code=1).json["findings"][:1]

        assert (finding["code"], finding["subject"]) == ("setting_unknown", "COORD_REDIS_ULR")
        assert finding["hint"] == "Did you mean COORD_REDIS_URL?"

    @pytest.mark.parametrize("mark", ["COORD_TASK_ID", "COORD_ATTEMPT_ID", "COORD_WORKER_PROCESS", "COORD_TOKEN"])
    def test_inside_a_job_the_plan_names_variables_as_it_likes(self, tmp_path: Path, mark: str) -> None:
        coord = coord_in(tmp_path, COORD_ATTEMPT="1", COORD_MINE="x", **{mark: new_id()})

        assert coord("runs", "list").err == ""
