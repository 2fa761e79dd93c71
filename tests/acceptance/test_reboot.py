"""Test that a starting worker hands back only attempts whose processes certainly do not exist any more."""

from __future__ import annotations

import os

from sqlalchemy import text

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet
from tests.support.processes import Process

LONG_LEASE = {"COORD_LEASE_TTL": "10m"}  # so that only the start of another worker can be quick
FIRST_HANGS = "echo $$ > pid.$COORD_ATTEMPT; if [ $COORD_ATTEMPT = 1 ]; then sleep 60; fi; echo done by $COORD_ATTEMPT"


def killed_and_remembered_as(fleet: Fleet, first: Process, **columns: object) -> None:
    """Kill a worker, and change its row as if it had run elsewhere."""
    first.kill()
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    with fleet.co.runtime.store.write() as tx:
        tx.execute(text(f"UPDATE workers SET {assignments}"), columns)  # noqa: S608 - names from this file


def test_another_boot_of_the_kernel_is_over_when_all_share_one_file_and_else_nobody_knows(fleet: Fleet) -> None:
    first = fleet.worker(**LONG_LEASE)
    run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
    fleet.await_file("pid.1")

    killed_and_remembered_as(fleet, first, boot_id="11111111-2222-3333-4444-555555555555/pid:[4026531836]")
    fleet.worker(**LONG_LEASE)

    if fleet.co.runtime.store.dialect == "sqlite":
        assert run.wait(timeout=20) is RunState.COMPLETED
        assert run.task("job").output == "done by 2"
    else:
        other = fleet.submit(Task("other", {"shell": "true"}))
        assert other.wait(timeout=20) is RunState.COMPLETED
        (attempt,) = run.task("job").attempts()
        assert attempt.finished_at is None, "two machines may have one name: its lease decides"


def test_a_former_life_of_the_same_process_is_over(fleet: Fleet) -> None:
    """Simulate a container's restart: the same host and namespace, and the new worker has the dead one's pid."""
    first = fleet.worker(**LONG_LEASE)
    run = fleet.submit(Task("job", {"shell": FIRST_HANGS}))
    fleet.await_file("pid.1")
    killed_and_remembered_as(fleet, first, pid=os.getpid())  # alive, and not the worker

    script = (
        "import os, sys; from sqlalchemy import create_engine, text; engine = create_engine(sys.argv[1]);\n"
        "with engine.begin() as tx: tx.execute(text('UPDATE workers SET pid = :pid'), {'pid': os.getpid()})\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'workers'])"
    )
    fleet.processes.start_python(
        "-c",
        script,
        fleet.co.runtime.settings.database_url,
        env={**fleet.env, **LONG_LEASE},
        announces=True,
    ).wait_until_ready()

    assert run.wait(timeout=20) is RunState.COMPLETED
    assert run.task("job").output == "done by 2"
