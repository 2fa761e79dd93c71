"""Test plans of real jobs on real workers: the durations of the first run predict those of the next one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet

FOLDER = Path(__file__).resolve().parent.parent / "support" / "job_functions"


def nap(key: str, seconds: float, *needs: str) -> Task:
    return Task(key, {"python": "job_functions:nap", "args": {"seconds": seconds}}, needs=needs)


def test_a_plan_that_has_run_once_takes_as_long_as_it_is_predicted_to(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    # Two slots: a, then b and c at once, then d and e, then f.
    plan = Plan(
        [
            nap("a", 1.1),
            nap("b", 1.3, "a"),
            nap("c", 1.2, "a"),
            Task("short", {"shell": "sleep 0.05"}, needs=["a"]),
            nap("d", 1.4, "b", "c"),
            nap("e", 1.2, "b", "c", "short"),
            nap("f", 1.1, "d", "e"),
            Task("echo", {"shell": "true"}, needs=["f"]),
        ],
        project=ProjectRef(name="fleet", path=str(fleet.folder / "project")),
        python_path=[str(FOLDER)],
    )
    first = fleet.co.submit(plan)
    assert first.wait(timeout=60) is RunState.COMPLETED
    assert first.record.predicted is None

    prediction = fleet.co.simulate(plan)
    second = fleet.co.submit(plan)
    assert second.wait(timeout=60) is RunState.COMPLETED

    record = second.record
    assert record.finished_at is not None
    took = record.finished_at - record.created_at
    assert prediction.duration.p10 <= took <= prediction.duration.p90, (prediction.duration, took)
    assert prediction.duration.p90 < timedelta(seconds=15)
    path = [leg.key for leg in prediction.path]
    assert (path[0], *path[-2:]) == ("a", "f", "echo")
    assert (prediction.slots, prediction.untimed, prediction.usd.p90) == (2, (), 0)
    kept = record.predicted
    assert kept is not None
    assert kept["duration"][0] <= took.total_seconds() <= kept["duration"][2], (kept, took)
    assert kept["untimed"] == ["shell:sleep", "shell:true"], "short ones leave no sample; a simulation asks their runs"
