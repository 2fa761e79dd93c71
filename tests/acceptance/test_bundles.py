"""Short jobs share messages and commits; a long one among them keeps none waiting, and a crash repeats little."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordination.domain.attempts import Outcome
from coordination.domain.events import EventType
from coordination.domain.plans import Task
from coordination.domain.runs import RunState
from coordination.domain.tasks import TaskState
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Processes, until


@pytest.fixture
def fleet(processes: Processes, store_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on either store."""
    with fleet_on(processes, store_url, redis_url, tmp_path) as made:
        yield made


def quick_and_slow(folder: Path, count: int, slow: int) -> list[Task]:
    """Jobs of one kind that take no time, but for one."""
    (folder / "napping.py").write_text("import time\n\n\ndef nap(seconds):\n    time.sleep(seconds)\n")
    return [
        Task(f"t{number}", {"python": "napping:nap", "args": {"seconds": 4 if number == slow else 0}})
        for number in range(count)
    ]


def test_a_long_job_in_a_bundle_keeps_no_short_one_waiting(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    folder = fleet.file("napping.py").parent
    warm = fleet.submit(*quick_and_slow(folder, 200, -1))
    assert warm.wait(timeout=60) is RunState.COMPLETED  # now the kind is known to be short

    run = fleet.submit(*quick_and_slow(folder, 100, 5))

    assert run.wait(timeout=60) is RunState.COMPLETED
    ends = {event.key: event.at for event in run.events() if event.type is EventType.COMPLETED}
    slow_end = ends.pop("t5")
    assert len(ends) == 99
    assert max(ends.values()) < slow_end
    handed_back = [task for task in run.tasks() if task.attempts()[0].outcome is Outcome.HANDED_BACK]
    assert all(task.record.failures == task.record.losses == 0 for task in handed_back)


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
import os, time


def step(needs, folder, number, seconds=0):
    with open(os.path.join(folder, "ran"), "a") as file:
        file.write(f"{number}\\n")
    time.sleep(seconds)
    return 1 + max([need["output"] for need in needs.values()], default=0)


def nothing():
    pass
"""


def chain(folder: Path, count: int, *, slow: int = -1, seconds: float = 0) -> list[Task]:
    """Each adds one to what the one before it returned, and leaves a line behind."""
    (folder / "steps.py").write_text(STEPS)
    return [
        Task(
            f"t{number}",
            {
                "python": "steps:step",
                "args": {"folder": str(folder), "number": number, "seconds": seconds if number == slow else 0},
            },
            needs=[f"t{number - 1}"] if number else [],
        )
        for number in range(count)
    ]


def known_to_be_short(fleet: Fleet) -> Path:
    """A folder in which steps have run, so that workers know how long they take."""
    folder = fleet.file("steps.py").parent
    (folder / "steps.py").write_text(STEPS)
    step = {"python": "steps:step", "args": {"folder": str(folder), "number": 0}}
    assert fleet.submit(*[Task(f"w{number}", step) for number in range(200)]).wait(timeout=60) is RunState.COMPLETED
    (folder / "ran").unlink()
    return folder


def lines(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "ran").read_text().split()]


def test_a_chain_of_short_jobs_runs_on_the_heels_of_itself_in_its_order(fleet: Fleet) -> None:
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
    ends = {event.at for event in run.events() if event.type is EventType.COMPLETED}
    assert len(ends) < 75, "hardly any two were written together"


def test_a_job_that_runs_ahead_and_takes_long_is_claimed_while_it_runs(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    folder = known_to_be_short(fleet)

    run = fleet.submit(*chain(folder, 20, slow=10, seconds=3))

    until(lambda: run.task("t10").state is TaskState.RUNNING, what="the slow one is seen to run")
    assert [run.task(f"t{number}").state for number in (9, 11)] == [TaskState.COMPLETED, TaskState.BLOCKED]
    assert run.task("t10").attempts()[0].outcome is None
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert lines(folder) == list(range(20))
    assert [task.record.attempt for task in run.tasks()] == [1] * 20


def test_a_wide_piece_of_the_graph_runs_ahead_and_is_written_at_once(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    nothing = {"python": "steps:nothing"}
    known_to_be_short(fleet)
    assert fleet.submit(*[Task(f"w{number}", nothing) for number in range(200)]).wait(timeout=60) is RunState.COMPLETED
    wide = [Task(f"t{number}", nothing, needs=["first"]) for number in range(600)]

    run = fleet.submit(Task("first", nothing), *wide, Task("last", nothing, needs=[task.key for task in wide]))

    assert run.wait(timeout=60) is RunState.COMPLETED
    told = list(run.events())
    claimed = {event.key: event.at for event in told if event.type is EventType.CLAIMED}
    completed = {event.key: event.at for event in told if event.type is EventType.COMPLETED}
    assert len([event for event in told if event.type is EventType.COMPLETED]) == len(completed) == 602
    ahead = [key for key, at in claimed.items() if completed[key] == at]
    assert len(ahead) > 128
    assert {task.record.attempt for task in run.tasks()} == {1}


def test_a_slow_one_that_ran_ahead_can_be_canceled(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    folder = known_to_be_short(fleet)
    run = fleet.submit(*chain(folder, 20, slow=10, seconds=30))
    until(lambda: run.task("t10").state is TaskState.RUNNING, what="the slow one is seen to run")

    run.cancel()

    assert run.wait(timeout=20) is RunState.CANCELED
    until(lambda: run.task("t10").attempts()[0].outcome is Outcome.CANCELED, what="its process has ended")
    assert lines(folder) == list(range(11))


def test_a_worker_killed_in_the_middle_of_a_chain_repeats_little_and_loses_nothing(fleet: Fleet) -> None:
    first = fleet.worker("-c", "2")
    folder = known_to_be_short(fleet)
    a_millisecond = [
        replace(task, run={**task.run, "args": {**task.run["args"], "seconds": 0.001}}) for task in chain(folder, 1500)
    ]
    run = fleet.submit(*a_millisecond)
    until(lambda: (folder / "ran").exists() and len(lines(folder)) > 600, what="the chain runs")

    first.kill()
    fleet.worker("-c", "2")

    assert run.wait(timeout=90) is RunState.COMPLETED
    ran = lines(folder)
    assert sorted(set(ran)) == list(range(1500))
    assert run.task("t1499").output == 1500
    completed = [event.key for event in run.events() if event.type is EventType.COMPLETED]
    assert len(completed) == len(set(completed)) == 1500
    # What a crash repeats is the piece that was not written: 20 ms of jobs that are known to take one each.
    assert len(ran) - 1500 <= 40
