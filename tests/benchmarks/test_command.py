"""Test ``python -m benchmarks``: every part runs in small, bad input is one sentence, and a trial writes nothing."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.sources import ROOT

pytestmark = pytest.mark.full

KEPT = (ROOT / "benchmarks" / "results.json", ROOT / "benchmarks" / "README.md")


@pytest.fixture(autouse=True)
def _nothing_is_written() -> Iterator[None]:
    before = [path.read_bytes() for path in KEPT]
    yield
    assert [path.read_bytes() for path in KEPT] == before


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(processes: Processes) -> None:
    ran = processes.start_python("-m", "benchmarks", "hopping", cwd=ROOT)

    assert ran.wait() == 2
    assert "there is no part 'hopping'" in ran.output
    assert "throughput, projects, hops, fan" in ran.output


def test_a_bad_workflow_is_refused_in_one_sentence_before_anything_starts(processes: Processes, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"tasks": [{"id": "a", "parents": ["b"], "seconds": 1}]}', encoding="utf-8")

    ran = processes.start_python("-m", "benchmarks", "workflow", "--workflow", bad, cwd=ROOT)

    assert ran.wait() == 2
    assert ran.output == f"{bad}: 'a' waits for 'b', which does not exist\n"


@pytest.mark.parametrize(
    "option", [("--rounds", "0"), ("--scale", "0"), ("--scale", "2"), ("--workers", "0"), ("--records", "0")]
)
def test_sizes_that_make_no_sense_are_refused(processes: Processes, option: tuple[str, str]) -> None:
    ran = processes.start_python("-m", "benchmarks", "hops", *option, cwd=ROOT)

    assert ran.wait() == 2
    assert "--rounds, --workers and --records are at least 1" in ran.output


@pytest.mark.full
def test_the_parts_run_from_end_to_end_in_small(processes: Processes, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(
        '{"tasks": [{"id": "a", "parents": [], "seconds": 1}, {"id": "b", "parents": ["a"], "seconds": 3}]}',
        encoding="utf-8",
    )
    parts = ("limits", "projects", "workflow", "replay", "one-off", "wakeup", "agents")

    ran = processes.start_python("-m", "benchmarks", "--quick", *parts, "--workflow", own, cwd=ROOT)

    assert ran.wait(within=timedelta(seconds=110)) == 0, ran.output
    assert [line for line in ran.output.splitlines() if line.startswith("== ")] == [f"== {part}" for part in parts]
    for what in (
        "a commit of one row, reaching the disk",
        "200 no-op tasks in 4 projects, beside the same plans in one project",
        "200 no-op tasks in 4 projects, beside one plan in one project",
        "100 no-op tasks in a new project, beside celery",
        "own: 2 no-op tasks, 1 edges, beside celery",
        "own, durations x 0.25, beside its lower bound",
        "one-off jobs, 40 of as many kinds, beside celery",
        "submission committed to process started, p50",
        "coordinating each of 2 processes",
    ):
        assert what in ran.output
