"""Short jobs share messages and commits; a long one among them keeps none waiting, and a crash repeats little."""

from collections.abc import Iterator
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
