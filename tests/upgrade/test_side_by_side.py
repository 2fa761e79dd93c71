"""Workers of two versions on one store, before, during and after the migration between them; on both stores."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import bindparam, text

from coordination.client import Coordination, Run
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.runs import RunState
from coordination.domain.tasks.tasks import TaskState
from coordination.settings import load_settings
from coordination.store import schema
from coordination.store.engine import open_store
from coordination.store.migrations import upgrade
from tests.support.apps import app_of
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Process, Processes, until
from tests.support.sources import ROOT
from tests.upgrade.earlier import EARLIER, Earlier, Release, taken_from_history

VERSIONS = Path(__file__).parent / "versions"
NEXT_WORKER = Path(__file__).parent / "next_worker.py"

HELD = "touch held.begun; while [ ! -e go ]; do sleep 0.05; done; echo held"
# Two of these end only when they run at the same time, so two workers with one slot each must both take one.
MEET = "touch met.%s; while [ $(ls met.* | wc -l) -lt 2 ]; do sleep 0.05; done"


def plan() -> list[Task]:
    """A plan that is in its middle until the file ``go`` is there, and whose end needs two workers."""
    return [
        Task("first", {"shell": "echo first"}),
        Task("held", {"shell": HELD}, needs=["first"]),
        Task("waits", {"shell": "echo after {{ needs.held.output }}"}, needs=["held"]),
        *[Task(key, {"shell": MEET % key}, needs=["waits"]) for key in ("left", "right")],
        *[Task(f"t{number}", {"python": "os:getpid"}, needs=["left", "right"]) for number in range(20)],
        Task("last", {"shell": "echo last"}, needs=[f"t{number}" for number in range(20)]),
    ]


def assert_undisturbed(run: Run) -> None:
    """Everything was done once, and nothing was charged."""
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert {(task.record.failures, task.record.losses) for task in run.tasks()} == {(0, 0)}
    for task in run.tasks():
        *before, last = task.attempts()
        assert last.outcome is Outcome.COMPLETED
        # What waits behind a job that turns out to be long is handed back, and begins elsewhere.
        assert all(one.outcome is Outcome.HANDED_BACK and "before it in its bundle" in str(one.error) for one in before)


def workers_of(fleet: Fleet, run: Run, keys: Sequence[str]) -> list[tuple[str, str]]:
    """(id, version) of the workers that completed these tasks."""
    wanted = text(
        "SELECT DISTINCT w.id, w.version FROM attempts a JOIN workers w ON w.id = a.worker_id "
        "JOIN tasks t ON t.id = a.task_id WHERE t.run_id = :run AND a.outcome = 'completed' AND t.key IN :keys"
    ).bindparams(bindparam("keys", expanding=True))
    with fleet.co.runtime.store.read() as tx:
        return [(row[0], row[1]) for row in tx.execute(wanted, {"run": run.id, "keys": list(keys)})]


def counted(fleet: Fleet) -> dict[str, int]:
    """How many rows each table has that a plan fills."""
    with fleet.co.runtime.store.read() as tx:
        names = ("runs", "tasks", "dependencies", "task_events")
        return {name: tx.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}  # noqa: S608


def lease(fleet: Fleet, run_id: str) -> str:
    """Until when the job that runs now is its worker's, as stored."""
    wanted = text(
        "SELECT CAST(a.lease_until AS TEXT) FROM attempts a JOIN tasks t ON t.id = a.task_id "
        "WHERE t.run_id = :run AND a.finished_at IS NULL"
    )
    with fleet.co.runtime.store.read() as tx:
        return str(tx.execute(wanted, {"run": run_id}).scalar_one())


def migrate(url: str) -> None:
    """Apply the migration of tomorrow, as ``coord migrate`` of the next release would."""
    store = open_store(url)
    try:
        upgrade(store, also=[VERSIONS])
    finally:
        store.close()


def next_worker(fleet: Fleet) -> Process:
    """A worker of tomorrow, with one slot."""
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
        said = [line for line in refused.output.splitlines() if line.startswith("coord worker:")]
        assert len(said) == 1
        assert f"has schema {schema.HEAD}, this program needs 9999" in said[0]
        assert "coord migrate" in said[0]

    def test_its_doorbell_with_more_fields_is_answered(self, fleet: Fleet) -> None:
        worker = fleet.worker("-c", "1", COORD_SWEEP="1h", COORD_TICK="1h")
        silent = Coordination(replace(fleet.co.runtime, nudges=None))  # so that only the message can be heard
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


def test_every_earlier_schema_whose_programs_must_still_work_has_one_here() -> None:
    must_work = {version for version in schema.KNOWN[:-1] if version >= schema.WORKS_WITH}

    assert must_work == {release.schema for release in EARLIER}


@pytest.mark.parametrize("release", EARLIER, ids=lambda release: f"{release.schema}-{release.commit[:7]}")
class TestAnEarlierRelease:
    @pytest.fixture
    def earlier(self, release: Release, tmp_path: Path) -> Earlier:
        """Its program."""
        return taken_from_history(release, tmp_path / "their program")

    @pytest.mark.parametrize("kind", ["sqlite", "postgres"])
    @pytest.mark.deadlocks  # a migration changes whole tables, in an order that no program's statements have
    def test_its_workers_finish_a_plan_beside_todays_through_the_migration(  # noqa: PLR0917 - fixtures
        self,
        release: Release,
        kind: str,
        earlier: Earlier,
        processes: Processes,
        redis_url: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        url = request.getfixturevalue(f"blank_{kind}_url")
        environment = Fleet.environment(url, redis_url, tmp_path)
        theirs = Theirs(processes, earlier, environment, tmp_path)
        theirs.coord("migrate")
        old = theirs.worker()
        run_id = theirs.submit(plan())
        theirs.await_file("held.begun")

        assert migrated_to_today(url) == release.schema
        with fleet_on(processes, url, redis_url, tmp_path) as fleet:
            leased = lease(fleet, run_id)
            fleet.worker("-c", "1")
            until(lambda: lease(fleet, run_id) > leased, what="a heartbeat of their worker on today's schema")
            fleet.file("go").touch()

            run = fleet.co.run(run_id)
            assert_undisturbed(run)
            assert run.task("waits").output == "after held"
            assert len(workers_of(fleet, run, ["left", "right"])) == 2
            assert old.exit_code is None
            assert old.stop() == 0

    @pytest.mark.deadlocks  # as above
    def test_a_stop_holds_its_workers_and_ends_what_they_may_begin_again(  # noqa: PLR0917 - fixtures
        self,
        release: Release,
        earlier: Earlier,
        processes: Processes,
        blank_postgres_url: str,
        redis_url: str,
        tmp_path: Path,
    ) -> None:
        environment = Fleet.environment(blank_postgres_url, redis_url, tmp_path)
        theirs = Theirs(processes, earlier, environment, tmp_path)
        theirs.coord("migrate")
        theirs.worker()
        run_id = theirs.submit([Task("held", {"shell": HELD}), Task("next", {"shell": "echo next"}, needs=["held"])])
        theirs.await_file("held.begun")
        assert migrated_to_today(blank_postgres_url) == release.schema
        with fleet_on(processes, blank_postgres_url, redis_url, tmp_path) as fleet:
            hears = release.schema > "0001"  # the first one reads no message that is signed
            stopped = fleet.co.stop(timeout=60 if hears else 1)
            fleet.file("go").touch()
            if not hears:
                assert ["earlier version" in one.words() for one in stopped.attempts] == [True]
                stopped = fleet.co.stop(timeout=60)

            assert stopped.silent, [one.words() for one in stopped.attempts]
            became = "ended: coord start goes on with it" if hears else "completed meanwhile"
            assert [one.words() for one in stopped.attempts] == [became]
            run, waits = fleet.co.run(run_id), "held" if hears else "next"
            until(lambda: run.task(waits).state is TaskState.BLOCKED, what="that its worker is refused the task")
            assert run.task(waits).record.attempt == (1 if hears else 0)

            fleet.co.start()
            assert run.wait(timeout=60) is RunState.COMPLETED

    def test_it_starts_on_todays_schema_or_refuses_with_one_sentence(  # noqa: PLR0917 - fixtures
        self,
        release: Release,
        earlier: Earlier,
        processes: Processes,
        postgres_url: str,
        redis_url: str,
        tmp_path: Path,
    ) -> None:
        theirs = Theirs(processes, earlier, Fleet.environment(postgres_url, redis_url, tmp_path), tmp_path)
        if release.asks or release.schema == schema.HEAD:
            theirs.worker()
            return

        refused = theirs.start("-m", "workers")

        assert refused.wait() == 2
        assert f"has schema {schema.HEAD}, which is newer than this program" in refused.output


class Theirs:
    """An earlier program's command line and workers."""

    def __init__(self, processes: Processes, program: Earlier, env: dict[str, str], folder: Path) -> None:
        self.processes = processes
        self.program = program
        self.env = {**env, **program.env}
        self.project = folder / "project"
        self.project.mkdir()
        self.plan = folder / "plan.yaml"

    def start(self, *arguments: str | Path, announces: bool = False) -> Process:
        """Start its Python; ``-m`` looks in the current folder first."""
        return self.processes.start_python(*arguments, env=self.env, cwd=self.program.folder, announces=announces)

    def worker(self) -> Process:
        """A worker with one slot that takes jobs."""
        return self.start("-m", "workers", "-c", "1", announces=True).wait_until_ready()

    def coord(self, *arguments: str | Path) -> str:
        """Run a command to its end; what it printed."""
        done = self.start("-m", "coordination.cli", *arguments)
        assert done.wait() == 0, done.output
        return done.output

    def submit(self, tasks: Sequence[Task]) -> str:
        """Submit these tasks with its own command; the run's id."""
        listed = [{"key": task.key, "run": task.run, "needs": list(task.needs)} for task in tasks]
        project = {"name": "fleet", "path": str(self.project)}
        self.plan.write_text(json.dumps({"version": 1, "project": project, "tasks": listed}))
        return json.loads(self.coord("submit", self.plan, "--json"))["run"]

    def await_file(self, name: str) -> None:
        """Nothing, once a job has made that file."""
        until((self.project / name).exists, what=name)


def migrated_to_today(url: str) -> str | None:
    """Migrate as ``coord migrate`` of today; the schema before."""
    store = open_store(url)
    try:
        before = schema.current(store)
        schema.prepare(store)
        assert schema.current(store) == schema.HEAD
        return before
    finally:
        store.close()
