"""Test ``coord retain``: it prints what it would delete, deletes it, and archives it first on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordination.settings import load_settings
from coordination.store.engine import open_store
from tests.support.command import Coord
from tests.support.refusals import check_refused

PLAN = """
version: 1
tasks:
  - {key: a, run: {shell: "true"}}
  - {key: b, needs: [a], run: {shell: "true"}}
"""


@pytest.fixture
def old_run(coord_on_each: Coord) -> str:
    """Return the id of a run that was canceled a year ago."""
    plan = coord_on_each.cwd / "plan.yaml"
    plan.write_text(PLAN)
    run_id: str = coord_on_each("submit", plan, "--json").json["run"]
    coord_on_each("runs", "cancel", run_id)
    store = open_store(load_settings(coord_on_each.environment).database_url)
    with store.write() as tx:
        tx.exec_driver_sql("UPDATE runs SET finished_at = '2025-11-01T00:00:00.000000+00:00'")
    store.close()
    return run_id


def test_it_says_what_it_would_delete_and_deletes_nothing(coord_on_each: Coord, old_run: str) -> None:
    output = coord_on_each("retain", "--dry-run", "--json").json

    assert output["dry_run"] is True
    assert output["older_than"] == {"runs": 90 * 86_400, "workers": 7 * 86_400, "costs": None}
    assert {name: number for name, number in output["rows"].items() if number} == {
        "runs": 1,
        "tasks": 2,
        "dependencies": 1,
        "events": 6,
    }
    assert "Would delete: 1 finished runs, 2 tasks" in coord_on_each("retain", "--dry-run").out
    assert len(coord_on_each("tasks", "list", old_run, "--json").json["tasks"]) == 2


def test_it_deletes_what_is_old_and_writes_it_down_first(coord_on_each: Coord, old_run: str, tmp_path: Path) -> None:
    folder = tmp_path / "archive"

    output = coord_on_each("retain", "--archive", folder).out

    assert "Deleted: 1 finished runs, 2 tasks" in output
    assert f"Wrote {folder / old_run}.jsonl.gz" in output
    assert [path.name for path in folder.iterdir()] == [f"{old_run}.jsonl.gz"]
    assert coord_on_each("runs", "list", "--json").json["runs"] == []
    assert coord_on_each("retain").out == "Nothing is old enough to be deleted.\n"


def test_a_setting_keeps_everything(coord_on_each: Coord, old_run: str) -> None:
    keeping = Coord(coord_on_each.home, coord_on_each.cwd, {**coord_on_each.settings, "COORD_RETENTION_RUNS": "never"})

    assert keeping("retain").out == "Nothing is old enough to be deleted.\n"
    assert len(keeping("runs", "list", "--json").json["runs"]) == 1


def test_a_folder_that_cannot_be_written_costs_nothing(coord_on_each: Coord, old_run: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    check_refused(coord_on_each("retain", "--archive", tmp_path / "file", code=2))
    assert len(coord_on_each("tasks", "list", old_run, "--json").json["tasks"]) == 2
