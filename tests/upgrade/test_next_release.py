"""Test workers of two versions on one store, before, during and after the migration between them; on both stores."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import bindparam, text

from coordination.api.connection import Coordination
from coordination.api.runs import Run
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import RunState
from coordination.settings import load_settings
from coordination.store import schema
from coordination.store.engine import open_store
from coordination.store.migrations import upgrade
from tests.support.apps import app_of
from tests.support.fleet import Fleet
from tests.support.processes import Process, until
from tests.support.sources import ROOT

VERSIONS = Path(__file__).parent / "versions"
NEXT_WORKER = Path(__file__).parent / "next_worker.py"

HELD = "touch held.begun; while [ ! -e go ]; do sleep 0.05; done; echo held"
# Two of these end only when they run at the same time, so two workers with one slot each must both take one.
MEET = "touch met.%s; while [ $(ls met.* | wc -l) -lt 2 ]; do sleep 0.05; done"


def plan() -> list[Task]:
    """Return a plan that is in its middle until the file ``go`` exists, and whose end needs two workers."""
    return [
        Task("first", {"shell": "echo first"}),
        Task("held", {"shell": HELD}, needs=["first"]),
        Task("waits", {"shell": "echo after {{ needs.held.output }}"}, needs=["held"]),
        *[Task(key, {"shell": MEET % key}, needs=["waits"]) for key in ("left", "right")],
        *[Task(f"t{number}", {"python": "os:getpid"}, needs=["left", "right"]) for number in range(20)],
        Task("last", {"shell": "echo last"}, needs=[f"t{number}" for number in range(20)]),
    ]


def assert_undisturbed(run: Run) -> None:
    """Check that every task was executed once, and that no attempt was charged."""
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert {(task.record.failures, task.record.losses) for task in run.tasks()} == {(0, 0)}
    for task in run.tasks():
        *before, last = task.attempts()
        assert last.outcome is Outcome.COMPLETED
        # What waits behind a job that turns out to be long is handed back, and begins elsewhere.
        assert all(one.outcome is Outcome.HANDED_BACK and "before it in its batch" in str(one.error) for one in before)


def workers_of(fleet: Fleet, run: Run, keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return (id, version) of the workers that completed these tasks."""
    wanted = text(
        "SELECT DISTINCT w.id, w.version FROM attempts a JOIN workers w ON w.id = a.worker_id "
        "JOIN tasks t ON t.id = a.task_id WHERE t.run_id = :run AND a.outcome = 'completed' AND t.key IN :keys"
    ).bindparams(bindparam("keys", expanding=True))
    with fleet.co.runtime.store.read() as tx:
        return [(row[0], row[1]) for row in tx.execute(wanted, {"run": run.id, "keys": list(keys)})]


def counted(fleet: Fleet) -> dict[str, int]:
    """Return the number of rows of each table that a plan fills."""
    with fleet.co.runtime.store.read() as tx:
        names = ("runs", "tasks", "dependencies", "events")
        return {name: tx.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}  # noqa: S608


def lease(fleet: Fleet, run_id: str) -> str:
    """Return the stored expiry of the running job's lease."""
    wanted = text(
        "SELECT CAST(a.lease_until AS TEXT) FROM attempts a JOIN tasks t ON t.id = a.task_id "
        "WHERE t.run_id = :run AND a.finished_at IS NULL"
    )
    with fleet.co.runtime.store.read() as tx:
        return str(tx.execute(wanted, {"run": run_id}).scalar_one())


def migrate(url: str) -> None:
    """Apply the migration of the next release, as its ``coord migrate`` would."""
    store = open_store(url)
    try:
        upgrade(store, also=[VERSIONS])
    finally:
        store.close()


def next_worker(fleet: Fleet) -> Process:
    """Start a worker of the next release, with one slot."""
    arguments = [NEXT_WORKER, "-c", "1"]
    env = {**fleet.env, "PYTHONPATH": str(ROOT)}
    return fleet.processes.start_python(*arguments, env=env, announces=True).wait_until_ready()


class TestTheNextRelease:
    @pytest.mark.deadlocks
    def test_todays_workers_go_on_through_its_migration_beside_its_workers(self, fleet: Fleet) -> None:
        fleet.worker("-c", "1")
        run = fleet.submit(*plan())
        until(fleet.file("held.begun").exists, what="the middle of the plan")

        migrate(fleet.env["COORD_DATABASE_URL"])
        next_worker(fleet)
        fleet.file("go").touch()

        assert_undisturbed(run)
        assert run.task("waits").output == "after held"
        assert "next" in {version for _, version in workers_of(fleet, run, ["left", "right"])}
        assert len(workers_of(fleet, run, ["left", "right"])) == 2

    def test_todays_programs_start_submit_and_work_on_its_schema(self, fleet: Fleet) -> None:
        migrate(fleet.env["COORD_DATABASE_URL"])

        fleet.worker("-c", "1")
        run = fleet.submit(Task("first", {"shell": "echo first"}), Task("last", {"shell": "true"}, needs=["first"]))

        assert run.wait(timeout=30) is RunState.COMPLETED
        assert schema.current(fleet.co.runtime.store) == "9999"

    def test_its_migration_keeps_every_row_and_every_reference(self, fleet: Fleet) -> None:
        run = fleet.submit(*plan())
        before = counted(fleet)

        migrate(fleet.env["COORD_DATABASE_URL"])

        assert counted(fleet) == before
        assert run.task("left").record.pending == 1

    def test_its_worker_refuses_todays_schema_with_one_sentence(self, fleet: Fleet) -> None:
        refused = fleet.processes.start_python(NEXT_WORKER, env={**fleet.env, "PYTHONPATH": str(ROOT)})

        assert refused.wait() == 2
        output = [line for line in refused.output.splitlines() if line.startswith("coord worker:")]
        assert len(output) == 1
        assert f"has schema {schema.HEAD}, this program needs 9999" in output[0]
        assert "coord migrate" in output[0]

    def test_its_doorbell_with_more_fields_is_answered(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "1", COORD_SWEEP="1h", COORD_TICK="1h")
        silent = Coordination(replace(fleet.co.runtime, wakeups=None))  # so that only the message can arrive
        heard, fleet.co = fleet.co, silent
        run = fleet.submit(Task("job", {"shell": "echo heard"}))
        task = run.task("job").record
        fleet.co = heard
        with app_of(load_settings(fleet.env)) as app:
            enqueued = [[task.id, task.attempt, "sweet"]]
            app.send_task("coordination.run", [fleet.co.runtime.workspace_id, enqueued], {"version": 2}, queue="jobs")
            worker.wait_for("refused a message.*version")
            assert run.task("job").record.attempt == 0
            app.send_task("coordination.run", [fleet.co.runtime.workspace_id, enqueued], {"flavour": "x"}, queue="jobs")

        assert run.wait(timeout=20) is RunState.COMPLETED
