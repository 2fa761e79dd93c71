"""Test that short jobs share messages and commits, that a long one delays no other, and that a crash repeats few."""

from pathlib import Path

import pytest

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from tests.support.fleet import Fleet
from tests.support.processes import until


def quick_and_slow(folder: Path, count: int, slow: int) -> list[Task]:
    """Return jobs of one kind that take no time, except one."""
    (folder / "napping.py").write_text("import time\n\n\ndef nap(seconds):\n    time.sleep(seconds)\n")
    return [
        Task(f"t{number}", {"python": "napping:nap", "args": {"seconds": 8 if number == slow else 0}})
        for number in range(count)
    ]


def test_a_long_job_in_a_bundle_keeps_no_short_one_waiting(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    folder = fleet.file("napping.py").parent
    warm = fleet.submit(*quick_and_slow(folder, 200, -1))
    assert warm.wait(timeout=60) is RunState.COMPLETED  # now the kind counts as short

    run = fleet.submit(*quick_and_slow(folder, 100, 5))

    assert run.wait(timeout=60) is RunState.COMPLETED
    ends = {event.key: event.at for event in run.events() if event.type is EventType.COMPLETED}
    slow_end = ends.pop("t5")
    assert len(ends) == 99
    assert max(ends.values()) < slow_end
    handed_back = [task for task in run.tasks() if task.attempts()[0].outcome is Outcome.HANDED_BACK]
    assert all(task.record.failures == task.record.losses == 0 for task in handed_back)


@pytest.mark.expiring
def test_a_worker_killed_in_the_middle_of_bundles_loses_and_doubles_nothing(fleet: Fleet) -> None:
    first = fleet.worker("-c", "4")
    folder = fleet.file("napping.py").parent
    fleet.submit(*quick_and_slow(folder, 200, -1)).wait(timeout=60)
    run = fleet.submit(*quick_and_slow(folder, 1500, -1))
    until(lambda: run.record.counts.get(TaskState.COMPLETED, 0) > 50, what="the first tasks")

    first.kill()
    fleet.worker("-c", "4")

    assert run.wait(timeout=90) is RunState.COMPLETED
    completed = [event.key for event in run.events() if event.type is EventType.COMPLETED]
    assert len(completed) == len(set(completed)) == 1500
    assert run.record.counts == {TaskState.COMPLETED: 1500}


STEPS = """
import os


def step(needs, folder, number):
    with open(os.path.join(folder, "ran"), "a") as file:
        file.write(f"{number} {os.environ['COORD_ATTEMPT']}\\n")
    return 1 + max([need["output"] for need in needs.values()], default=0)
"""


def chain(folder: Path, count: int) -> list[Task]:
    """Return jobs that each add one to the previous result, and write a line to a file."""
    (folder / "steps.py").write_text(STEPS)
    return [
        Task(
            f"t{number}",
            {"python": "steps:step", "args": {"folder": str(folder), "number": number}},
            needs=[f"t{number - 1}"] if number else [],
        )
        for number in range(count)
    ]


def known_to_be_short(fleet: Fleet) -> Path:
    """Provide a folder in which steps have run, so that workers know their duration."""
    folder = fleet.file("steps.py").parent
    (folder / "steps.py").write_text(STEPS)
    step = {"python": "steps:step", "args": {"folder": str(folder), "number": 0}}
    assert fleet.submit(*[Task(f"w{number}", step) for number in range(200)]).wait(timeout=60) is RunState.COMPLETED
    (folder / "ran").unlink()
    return folder


def lines(folder: Path) -> list[int]:
    return [int(line.split()[0]) for line in (folder / "ran").read_text().splitlines()]


@pytest.mark.smoke
def test_a_chain_of_short_jobs_runs_in_its_order(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    folder = known_to_be_short(fleet)

    run = fleet.submit(*chain(folder, 150))

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert lines(folder) == list(range(150))
    assert run.task("t149").output == 150
    story = [(event.key, event.type) for event in run.events() if event.key is not None]
    for number in range(1, 150):
        before, after = (f"t{number - 1}", EventType.COMPLETED), (f"t{number}", EventType.CLAIMED)
        assert story.index(before) < story.index((f"t{number}", EventType.UNBLOCKED)) < story.index(after)


@pytest.mark.expiring
def test_every_execution_is_an_attempt_with_a_number_of_its_own_although_workers_are_killed(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2")
    folder = known_to_be_short(fleet)
    run = fleet.submit(*chain(folder, 1000))

    for done in (200, 500, 800):
        until(lambda done=done: (folder / "ran").exists() and len(lines(folder)) > done, what="the chain runs")
        worker.kill()
        worker = fleet.worker("-c", "2")

    assert run.wait(timeout=90) is RunState.COMPLETED
    executions = [tuple(map(int, line.split())) for line in (folder / "ran").read_text().splitlines()]
    assert len(set(executions)) == len(executions), "one attempt was executed twice"
    attempts = {(int(task.key[1:]), one.number) for task in run.tasks() for one in task.attempts()}
    assert set(executions) <= attempts
    assert lines(folder)[-1] == 999
    assert run.task("t999").output == 1000
    completed = [event.key for event in run.events() if event.type is EventType.COMPLETED]
    assert len(completed) == len(set(completed)) == 1000
    assert len(executions) - 1000 <= 2 * 3, "a crash repeats what was at work, and no more"
