"""Test that no slot is idle while tasks are ready, wherever the messages of these tasks are."""

import time
from datetime import timedelta
from pathlib import Path

import psycopg

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Processes, until


def test_as_many_jobs_run_as_there_are_slots_although_busy_workers_hold_messages(fleet: Fleet) -> None:
    """Use each slot: workers prefetch more than their slots, so busy ones may have all messages left."""
    fleet.worker("-c", "4")
    fleet.worker("-c", "4")
    gate = fleet.file("open")
    run = fleet.submit(
        *[Task(f"t{number}", {"shell": f"until test -e {gate}; do sleep 0.2; done"}) for number in range(12)]
    )
    until(lambda: run.record.counts.get(TaskState.RUNNING, 0) == 8, what="two full", within=timedelta(seconds=60))

    fleet.worker("-c", "4")

    until(
        lambda: run.record.counts.get(TaskState.RUNNING, 0) == 12,
        what="three full workers",
        within=timedelta(seconds=30),
    )
    gate.touch()
    assert run.wait(timeout=60) is RunState.COMPLETED
    claims = [event.key for event in run.events() if event.type is EventType.CLAIMED]
    assert len(claims) == len(set(claims)) == 12


def test_a_message_is_not_in_vain_because_somebody_held_a_row_for_a_moment(
    processes: Processes, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Claim again after a lock: a change of priorities or a filled window locks rows, which a claim skips at first."""
    with fleet_on(processes, postgres_url, redis_url, tmp_path) as fleet:
        fleet.worker("-c", "1", COORD_SWEEP="60s", COORD_TICK="60s")  # no other process enqueues soon
        gate = fleet.file("open")
        first = fleet.submit(Task("first", {"shell": f"until test -e {gate}; do sleep 0.05; done"}))
        until(lambda: first.record.counts.get(TaskState.RUNNING), what="the first task")
        run = fleet.submit(Task("held", {"shell": "true"}))
        plain = postgres_url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as look:
            enqueued = "SELECT 1 FROM tasks WHERE id = %s AND enqueued_at IS NOT NULL"
            until(lambda: look.execute(enqueued, [run.task("held").id]).fetchone(), what="its doorbell")
        with psycopg.connect(plain) as other:
            other.execute("SELECT 1 FROM tasks WHERE id = %s FOR UPDATE", [run.task("held").id])
            gate.touch()
            assert first.wait(timeout=60) is RunState.COMPLETED
            time.sleep(0.2)  # its message has been consumed by now
        free_at = time.monotonic()

        assert run.wait(timeout=60) is RunState.COMPLETED

        assert time.monotonic() - free_at < 30  # the search for prefetched tasks comes after a minute
