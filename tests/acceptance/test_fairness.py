"""Test that batching is fair to other projects, priorities and jobs of different lengths, by the event log's times."""

# ruff: noqa: T201 - the figures are worth seeing (pytest -s)

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from coordination.api.runs import Run
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.tasks.events import Event, EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.store.tables.tasks.events import event_log
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Processes, until

READY = int(os.environ.get("COORD_TEST_READY", "20000"))
"""How many tasks of the crowding project are ready; 100000 for the real thing, which takes minutes."""

NAPPING = "import time\n\n\ndef nap(seconds):\n    time.sleep(seconds)\n"
LONG = 8.0


@pytest.fixture
def fleet(processes: Processes, store_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Provide a fleet on either store."""
    with fleet_on(processes, store_url, redis_url, tmp_path) as created:
        created.file("napping.py").write_text(NAPPING)
        yield created


def nap(key: str, seconds: float, **fields: object) -> Task:
    return Task(key, {"python": "napping:nap", "args": {"seconds": seconds}}, **fields)  # type: ignore[arg-type]


def every_event(run: Run, *types: EventType) -> list[Event]:
    """Return the run's events of these types so far, in their order."""
    return [event for event in run.events(follow=False) if event.type in types]


def claims_between(run: Run, begin: datetime, end: datetime) -> int:
    """Return how many attempts of the run began in that time."""
    e = event_log.c
    claimed = (e.run_id == run.id, e.type == EventType.CLAIMED, e.created_at > begin, e.created_at < end)
    with run.runtime.store.read() as tx:
        return tx.execute(select(func.count()).where(*claimed)).scalar_one()


def completed(run: Run) -> int:
    return run.record.counts.get(TaskState.COMPLETED, 0)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_project_with_a_long_backlog_keeps_no_other_waiting(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    crowd = fleet.submit(*[nap(f"t{number}", 0.002) for number in range(READY)])
    until(lambda: completed(crowd) > 500, what="the crowd runs, in bundles")
    reference = ProjectRef(name="other", git_remote="https://example.org/acme/other.git")

    other = fleet.co.submit(Plan([Task(f"o{number}", {"shell": "true"}) for number in range(10)], project=reference))

    assert other.wait(timeout=60) is RunState.COMPLETED
    assert completed(crowd) < READY  # it was waiting all the time
    crowd.cancel()
    submitted = every_event(other, EventType.RUN_SUBMITTED)[0].at
    claims = every_event(other, EventType.CLAIMED)
    assert len(claims) == 10
    waits = sorted(claim.at - submitted for claim in claims)
    went_first = claims_between(crowd, submitted, submitted + waits[-1])
    print(
        f"10 tasks beside {READY:,} ready ones of another project: claimed after {waits[0]} to {waits[-1]}; "
        f"{went_first} of the others were claimed meanwhile"
    )
    # A window of messages, each with a full batch, and the tasks with which the threads continue: less than a second
    # by the clock where no other process uses the machine, and the same number on any machine.
    assert went_first < 3_000
    assert waits[-1] < timedelta(seconds=10)


@pytest.mark.parametrize(
    ("seconds", "count", "most"),
    [pytest.param(0.04, 150, 20, id="one a message"), pytest.param(0.001, 4_000, 1_200, id="in bundles")],
)
@pytest.mark.timeout(180)
def test_a_new_priority_reaches_what_waits(fleet: Fleet, seconds: float, count: int, most: int) -> None:
    """Let only tasks that were enqueued before the change, a window at most, start first."""
    fleet.worker("-c", "1", COORD_WINDOW="8")
    run = fleet.submit(*[nap(f"t{number}", seconds) for number in range(count)])
    until(lambda: completed(run) > 5, what="the first tasks")

    assert run.task(f"t{count - 1}").set_priority(10)

    until(lambda: run.task(f"t{count - 1}").state is TaskState.COMPLETED, within=timedelta(seconds=60), what="it runs")
    run.cancel()
    story = _whole_story(run)
    changed = next(place for place, event in enumerate(story) if event.type is EventType.REPRIORITIZED)
    claimed = next(
        place for place, event in enumerate(story) if event.type is EventType.CLAIMED and event.key == f"t{count - 1}"
    )
    # A claim whose transaction was open at the change precedes it in the event log: so none lies between them.
    before_it = sum(event.type is EventType.CLAIMED for event in story[changed:claimed])
    print(f"{before_it} of {count} tasks were claimed between the change and the claim of the last task")
    assert before_it < most


def _whole_story(run: Run) -> list[Event]:
    return list(run.events(follow=False))


@pytest.mark.timeout(180)
def test_long_jobs_among_short_ones_of_the_same_kind_delay_none_while_a_slot_is_free(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    warm = fleet.submit(*[nap(f"w{number}", 0) for number in range(300)])
    assert warm.wait(timeout=60) is RunState.COMPLETED  # now the kind counts as short, and batches are large
    slow = {"t5", "t70", "t140"}  # one slot stays free

    run = fleet.submit(*[nap(f"t{number}", LONG if f"t{number}" in slow else 0) for number in range(200)])

    assert run.wait(timeout=90) is RunState.COMPLETED
    ends = {event.key: event for event in every_event(run, EventType.COMPLETED)}
    begun = {(event.key, event.attempt): event.at for event in every_event(run, EventType.CLAIMED)}
    first_long_end = min(ends[key].at for key in slow)
    last_short_end = max(event.at for key, event in ends.items() if key not in slow)
    print(f"the last short job ended {first_long_end - last_short_end} before the first long one")
    assert last_short_end < first_long_end
    for key in slow:
        waited = ends[key].at - begun[key, ends[key].attempt] - timedelta(seconds=LONG)
        print(f"{key} waited {waited} in its bundle")
        assert waited < timedelta(seconds=LONG - 2), "behind no other long one"


@pytest.mark.timeout(180)
def test_a_long_job_of_another_kind_starts_while_short_ones_crowd_its_project(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    warm = fleet.submit(*[nap(f"w{number}", 0) for number in range(300)])
    assert warm.wait(timeout=60) is RunState.COMPLETED
    short = [nap(f"t{number}", 0.002) for number in range(3_000)]

    run = fleet.submit(*short, Task("long", {"shell": f"sleep {LONG}"}, priority=1))

    until(
        lambda: run.task("long").state is TaskState.COMPLETED,
        within=timedelta(seconds=60),
        what="the long job has ended",
    )
    story = _whole_story(run)
    run.cancel()
    ended = next(event.at for event in story if event.type is EventType.COMPLETED and event.key == "long")
    claimed = next(event.at for event in story if event.type is EventType.CLAIMED and event.key == "long")
    submitted = next(event.at for event in story if event.type is EventType.RUN_SUBMITTED)
    beside = [event for event in story if event.type is EventType.COMPLETED and claimed < event.at < ended]
    before = [event for event in story if event.type is EventType.COMPLETED and submitted < event.at < claimed]
    print(f"claimed {claimed - submitted} after the submission, behind {len(before)} short jobs, beside {len(beside)}")
    assert len(before) < len(short) / 2
    assert len(beside) > 50
