"""Test the two commands that check everything: the state of all work, and whether all requirements are met."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.support.command import Coord, coord_in
from tests.support.processes import Processes


def test_status_on_a_fresh_machine_says_how_to_begin(coord: Coord) -> None:
    output = coord("status").out

    assert "No projects yet. Start with: coord run PLAN" in output
    assert "No worker is alive" in output


def test_status_names_projects_runs_workers_queues_and_cost(coord: Coord, plan: Path, processes: Processes) -> None:
    processes.start_python("-m", "coordination.cli", "up", env=coord.environment, cwd=coord.cwd).wait_for("stack is up")
    coord.process("run", plan, code=1)

    output = coord("status", "--json").json
    people = coord("status").out

    (project,) = output["projects"]
    assert (project["name"], project["supervisor"], project["open_runs"], project["error"]) == (
        "shop",
        "running",
        1,
        None,
    )
    assert (project["open_tasks"], project["cost_today_usd"]) == (2, "0")
    assert [run["state"] for run in output["runs"]] == ["stuck"]
    assert [(worker["slots"], worker["busy"]) for worker in output["workers"]] == [(8, 0)]
    assert output["queues"]["reachable"] is True
    assert output["queues"]["lengths"].keys() == {"jobs", "supervise"}
    assert output["cost_today_usd"] == "0"
    assert "queues: jobs 0" in people


def test_the_doctor_is_content_with_a_fresh_machine_and_leaves_no_trace(coord: Coord) -> None:
    output = coord("doctor", "--json").json

    assert output["healthy"] is True
    assert output["settings"]["home"]["source"] == "COORD_HOME"
    assert output["versions"]["celery"]
    assert not coord.home.exists()


def test_the_doctor_hides_passwords_and_names_what_cannot_be_reached(tmp_path: Path) -> None:
    coord = coord_in(
        tmp_path,
        COORD_DATABASE_URL="postgresql://me:secret@127.0.0.1:1/none",
        COORD_REDIS_URL="redis://:hidden@127.0.0.1:1/0",
    )

    output = coord("doctor", code=1)
    wrong = {check["name"] for check in coord("doctor", "--json", code=1).json["checks"] if check["verdict"] == "wrong"}

    assert wrong == {"database", "redis"}
    assert "secret" not in output.out + output.err
    assert "hidden" not in output.out + output.err
    assert "me:***@127.0.0.1" in output.out


def test_the_doctor_says_when_work_waits_and_nobody_is_alive(coord: Coord, plan: Path) -> None:
    coord("submit", plan)

    output = coord("doctor", code=1)

    assert "none is alive, and work waits. Run: coord up" in output.out


def test_the_doctor_names_a_schema_that_is_newer_than_the_program(coord: Coord) -> None:
    coord("status")
    database = sqlite3.connect(coord.home / "coordination.db")
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.execute("UPDATE schema_compatibility SET works_with = '9999'")
    database.commit()
    database.close()

    output = coord("doctor", code=1)

    assert "has schema 9999, which is newer than this program" in output.out


def test_the_doctor_warns_of_a_redis_that_may_drop_messages(
    tmp_path: Path, redis_url: str, redis_server: object
) -> None:
    coord = coord_in(tmp_path, COORD_REDIS_URL=redis_url)
    with redis_server.client() as client:  # type: ignore[attr-defined]
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            output = coord("doctor", code=1)
        finally:
            client.config_set("maxmemory-policy", "noeviction")

    assert "maxmemory-policy allkeys-lru" in output.out
    assert "appendonly is off" in output.out
