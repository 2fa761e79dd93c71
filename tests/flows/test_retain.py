"""Test retention: old data is archived whole and then deleted in small batches; needed or recent data stays."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from coordination.adapters.artifact_store import ArtifactStore
from coordination.base.errors import NotFound, Unavailable
from coordination.domain.issues.record import Issue
from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.merges import Merge
from coordination.domain.jobs.output import StoredChunk
from coordination.domain.tasks.attempts import Usage
from coordination.flows.plans.submit_plan import submit_plan
from coordination.flows.projects import retain as flow
from coordination.flows.projects.retain import RetentionAges, RetentionResult, preview_retention, retain
from coordination.flows.tasks.retry_tasks import retry_task
from coordination.formats.run_archive import write_archive
from coordination.services.projects import archives
from coordination.store.queries.jobs import merges, output
from coordination.store.queries.projects import retention
from coordination.store.tables import metadata
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.money.costs import costs
from coordination.store.tables.tasks.runs import runs, sessions
from coordination.store.types import db_after
from tests.support.refusals import refuses
from tests.support.world import World, plan_of

pytestmark = pytest.mark.own_database

AGES = RetentionAges(runs=timedelta(days=90), workers=timedelta(days=7), costs=timedelta(0))
OF_RUNS = ("runs", "tasks", "dependencies", "attempts", "events", "output_chunks", "artifacts", "merges")
GRAPH = ("a", "b < a", "c < a b", "d < c")


def age(world: World, run_id: str, *, days: int = 100) -> None:
    """Let the run have ended so many days ago."""
    long_ago = db_after(-timedelta(days=days).total_seconds())
    with world.store.write() as tx:
        changed = tx.execute(
            update(runs).where(runs.c.id == run_id, runs.c.finished_at.is_not(None)).values(finished_at=long_ago)
        )
        assert changed.rowcount == 1


def finished(world: World, *, days: int | None = None) -> str:
    """Return the id of an ended run with a failed attempt, an output, live output and a cost."""
    run_id = world.submit(*GRAPH).run_id
    spent = Usage(model="m", input_tokens=3, output_tokens=4, cost_usd=None)
    world.claim("a")
    with world.store.write() as tx:
        printed = [StoredChunk(slot, slot, 1, (("out", str(slot)),)) for slot in range(9)]
        output.write(tx, world.workspace, [(world.ids["a"], 1, printed)])
    kept = tuple(Artifact(f"file {number}", 1, "0", f"memory://files/{number}") for number in range(9))
    with world.store.write() as tx:
        merges.put(tx, world.workspace, world.ids["a"], Merge(1, "coord/x/run", "0", "1", {"output": None}))
    world.finish("a", usage=(spent,), output={"said": "grüß dich"}, artifacts=kept)
    world.do("b", "c")
    world.fail("d")
    if days is not None:
        age(world, run_id, days=days)
    return run_id


def rows(world: World, *names: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of these tables."""
    with world.store.read() as tx:
        return {
            name: [dict(row) for row in tx.execute(select(metadata.tables[name])).mappings()]
            for name in names or (*OF_RUNS, "costs", "sessions", "principals")
        }


def clear(world: World, ages: RetentionAges = AGES, **options: Any) -> RetentionResult | None:
    return retain(world.store, world.workspace, ages, **{"rest": lambda _seconds: False, **options})


def test_an_old_run_goes_with_all_its_rows_and_its_costs_stay(world: World) -> None:
    old, young = finished(world, days=100), finished(world, days=80)
    before = rows(world)

    done = clear(world)

    assert done is not None
    after = rows(world)
    assert [row["id"] for row in after["runs"]] == [young]
    assert {row["run_id"] for name in ("tasks", "attempts", "events") for row in after[name]} == {young}
    assert len(after["dependencies"]) == 4
    assert after["costs"] == before["costs"]
    assert {row["run_id"] for row in after["costs"]} == {old, young}
    gone = {name: len(before[name]) - len(after[name]) for name in OF_RUNS}
    assert {name: done.rows[name] for name in OF_RUNS} == gone
    assert done.complete


def test_a_dry_run_names_what_would_go_and_changes_nothing(world: World) -> None:
    finished(world, days=100)
    finished(world, days=80)
    before = rows(world, *metadata.tables)

    printed = preview_retention(world.store, world.workspace, AGES)

    assert rows(world, *metadata.tables) == before
    done = clear(world)
    assert done is not None
    assert +printed.rows == +done.rows


def test_no_batch_is_larger_than_it_may_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        finished(world, days=100)
    batches: list[int] = []
    rested: list[float] = []
    delete = retention.delete_batch

    def counted(*args: Any, **options: Any) -> dict[str, int]:
        deleted = delete(*args, **options)
        batches.append(sum(deleted.values()))
        return deleted

    monkeypatch.setattr(retention, "delete_batch", counted)

    done = clear(world, batch=7, rest=lambda seconds: rested.append(seconds) is not None)

    assert done is not None
    assert max(batches) == 7
    assert sum(batches) == sum(done.rows[name] for name in OF_RUNS)
    assert len(rested) >= len(batches) - 1
    assert min(rested) > 0
    assert rows(world)["runs"] == []


def test_a_round_that_is_told_to_stop_is_gone_on_with_by_the_next(world: World) -> None:
    finished(world, days=100)
    calls = Counter[str]()

    def stop_at_the_third(_seconds: float) -> bool:
        calls["rest"] += 1
        return calls["rest"] == 3

    first = clear(world, batch=5, rest=stop_at_the_third)

    assert first is not None
    assert not first.complete
    assert rows(world)["events"]
    second = clear(world, RetentionAges(runs=timedelta(0), workers=timedelta(0), costs=timedelta(0)))
    assert second is not None  # due at once, and what was begun is finished even when nothing else is to go
    assert not any(rows(world, *OF_RUNS).values())


def test_a_time_that_is_up_ends_a_round(world: World) -> None:
    finished(world, days=100)

    done = clear(world, batch=5, budget=timedelta(0))

    assert done is not None
    assert not done.complete
    assert len(rows(world)["tasks"]) == 4


class TestArchive:
    def expected(self, world: World) -> list[bytes]:
        """Return the rows of the only run, as an archive contains them."""
        stored = rows(world)
        listed = [(name, row) for name in ("principals", "sessions", *OF_RUNS, "costs") for row in stored[name]]
        return sorted(list(write_archive("run", {}, listed))[1:-1])

    def found(self, path: Path) -> list[bytes]:
        listed = [(row.pop("record"), row) for row in archives.read(path)]
        return sorted(list(write_archive("run", {}, listed))[1:-1])

    def test_it_holds_everything_that_was_deleted(self, world: World, tmp_path: Path) -> None:
        run_id = finished(world, days=100)
        expected = self.expected(world)

        done = clear(world, archive=tmp_path / "archive")

        assert done is not None
        assert done.archives == [tmp_path / "archive" / f"{run_id}.jsonl.gz"]
        assert rows(world)["tasks"] == []
        assert len(expected) > 20
        assert self.found(done.archives[0]) == expected
        assert [path.name for path in (tmp_path / "archive").iterdir()] == [f"{run_id}.jsonl.gz"]

    @pytest.mark.parametrize("batches", [0, 1, 4])
    def test_a_crash_after_it_was_written_repeats_cleanly(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
    ) -> None:
        """Crash before the deletion and during it: the file keeps everything."""
        run_id = finished(world, days=100)
        expected = self.expected(world)
        delete, calls = retention.delete_batch, Counter[str]()

        def killed(*args: Any, **options: Any) -> dict[str, int]:
            calls["delete"] += 1
            if calls["delete"] > batches:
                raise KeyboardInterrupt
            return delete(*args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(retention, "delete_batch", killed)
            with pytest.raises(KeyboardInterrupt):
                clear(world, archive=tmp_path, batch=6)
        left = sum(len(result) for result in rows(world, *OF_RUNS).values())

        done = clear(world, archive=tmp_path)

        assert left == 0 or batches < 5
        assert done is not None
        assert done.complete
        assert not any(rows(world, *OF_RUNS).values())
        assert self.found(tmp_path / f"{run_id}.jsonl.gz") == expected

    def test_a_crash_while_it_is_written_leaves_no_file_of_its_name(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = finished(world, days=100)
        expected = self.expected(world)

        def torn(*_: Any) -> Any:
            yield "runs", {"id": run_id}
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(retention, "stream_rows", torn)
            with pytest.raises(KeyboardInterrupt):
                clear(world, archive=tmp_path / "archive")
        assert not list((tmp_path / "archive").iterdir())
        assert len(rows(world)["tasks"]) == 4

        clear(world, archive=tmp_path / "archive")

        assert self.found(tmp_path / "archive" / f"{run_id}.jsonl.gz") == expected

    def test_a_folder_that_takes_nothing_keeps_the_run(self, world: World, tmp_path: Path) -> None:
        finished(world, days=100)
        (tmp_path / "file").write_text("no folder")
        before = rows(world)

        with refuses(Unavailable):
            clear(world, archive=tmp_path / "file")

        assert rows(world) == before
        with world.store.read() as tx:
            assert retention.list_marked(tx, world.workspace) == []


class TestWhatIsNeeded:
    def test_a_run_whose_issue_is_open_but_for_its_job_stays(self, world: World) -> None:
        run_id = self._run_of_an_issue(world, status="open")

        done = clear(world)

        assert done is not None
        assert done.needed == [run_id]
        assert len(rows(world)["tasks"]) == 1
        assert preview_retention(world.store, world.workspace, AGES).needed == [run_id]

    def test_a_run_whose_issue_its_tracker_has_closed_goes(self, world: World) -> None:
        self._run_of_an_issue(world, status="closed")

        clear(world)

        assert rows(world)["tasks"] == []
        assert len(rows(world, "issues")["issues"]) == 1

    def _run_of_an_issue(self, world: World, *, status: str) -> str:
        raw = f'{{"id":"i-1","title":"x","status":"{status}","priority":1,"issue_type":"task"}}'
        plan = plan_of("fix", tasks={"fix": {"metadata": {"issue": "i-1"}}})
        world.last = world.store.transact(
            lambda tx: submit_plan(
                tx, world.workspace, plan, world.origin(), issues=[Issue(id="i-1", title="x", raw=raw, status=status)]
            )
        )
        world.ids |= world.last.task_ids
        world.do("fix")
        age(world, world.run_id)
        return world.run_id

    def test_a_run_whose_last_attempt_has_not_ended_stays(self, world: World) -> None:
        run_id = world.submit("a").run_id
        world.claim("a")
        world.cancel("a")  # its worker has not ended the job yet
        age(world, run_id)

        done = clear(world)

        assert done is not None
        assert done.needed == [run_id]
        assert len(rows(world)["attempts"]) == 1

    def test_a_run_of_which_an_open_task_elsewhere_needs_one_stays(self, world: World) -> None:
        old = finished(world, days=100)
        parent = world.ids["a"]
        world.submit("later")
        world.sql(
            "INSERT INTO dependencies (parent_id, child_id, workspace_id, kind) "
            "VALUES (:parent, :child, :ws, 'blocks')",
            parent=parent,
            child=world.ids["later"],
            ws=world.workspace,
        )

        done = clear(world)

        assert done is not None
        assert done.needed == [old]

    def test_an_open_run_stays_however_old(self, world: World) -> None:
        world.submit(*GRAPH)
        world.sql("UPDATE runs SET created_at = :then", then="2020-01-01T00:00:00+00:00")
        before = rows(world)

        clear(
            world, RetentionAges(runs=timedelta(microseconds=1), workers=timedelta(0), costs=timedelta(microseconds=1))
        )

        assert rows(world) == before


def test_a_task_of_a_run_that_is_going_cannot_be_retried(world: World) -> None:
    run_id = finished(world, days=100)
    with world.store.write() as tx:
        assert retention.mark(tx, world.workspace, run_id, age=AGES.runs)

    with refuses(NotFound):
        world.store.transact(lambda tx: retry_task(tx, world.workspace, world.ids["d"], actor="ann"))

    assert world.task("d").state == "failed"
    clear(world)
    assert rows(world)["runs"] == []


def test_a_run_that_is_retried_meanwhile_is_not_marked(world: World) -> None:
    run_id = finished(world, days=100)
    marked: list[bool] = []

    def mark() -> None:
        marked.append(world.store.transact(lambda tx: retention.mark(tx, world.workspace, run_id, age=AGES.runs)))

    racer = threading.Thread(target=mark)
    with world.store.write() as tx:
        retry_task(tx, world.workspace, world.ids["d"], actor="ann")
        racer.start()  # it waits for the row, or for the one writer, until the retry is committed
    racer.join()

    assert marked == [False]
    assert world.states(["d"]) == {"d": "queued"}


class TestOneAtATime:
    def test_a_second_one_gets_nothing_to_do(self, world: World) -> None:
        finished(world, days=100)
        seconds: list[RetentionResult | None] = []

        def rest(_seconds: float) -> bool:
            seconds.append(clear(world))
            return False

        done = clear(world, rest=rest)

        assert done is not None
        assert seconds
        assert set(seconds) == {None}

    def test_it_is_not_due_again_before_the_time(self, world: World) -> None:
        hour = timedelta(hours=1)
        with world.store.read() as tx:
            assert retention.is_due(tx, world.workspace, flow.CHORE, every=hour)

        assert clear(world, every=hour) is not None

        with world.store.read() as tx:
            assert not retention.is_due(tx, world.workspace, flow.CHORE, every=hour)
        assert clear(world, every=hour) is None
        assert clear(world) is not None  # a person need not wait

    def test_whoever_lost_the_lease_deletes_nothing_more(self, world: World) -> None:
        finished(world, days=100)

        def taken_over(_seconds: float) -> bool:
            world.sql("UPDATE chores SET owner = 'another' WHERE name = 'retention'")
            return False

        with pytest.raises(flow.Conflict):
            clear(world, batch=5, rest=taken_over)

        assert len(rows(world)["tasks"]) == 4
        assert world.sql("SELECT owner FROM chores WHERE name = 'retention'") == [("another",)]

    def test_a_holder_that_died_is_followed_when_its_lease_is_over(self, world: World) -> None:
        finished(world, days=100)
        with world.store.write() as tx:
            assert retention.begin(tx, world.workspace, flow.CHORE, owner="dead", lease=timedelta(seconds=-1))

        assert clear(world) is not None
        assert rows(world)["runs"] == []


def test_workers_that_stopped_long_ago_are_forgotten_and_others_not(world: World) -> None:
    old, late, busy = (world.register(f"00000000-0000-7000-8000-00000000000{number}") for number in (1, 2, 3))
    run_id = world.submit("a").run_id
    world.claim("a", worker=busy)
    with world.store.write() as tx:
        for worker, days in ((old, 8), (late, 6), (busy, 8)):
            then = db_after(-timedelta(days=days).total_seconds())
            tx.execute(update(workers).where(workers.c.id == worker).values(stopped_at=then))

    done = clear(world)

    assert done is not None
    assert done.rows["workers"] == 1
    assert {row["id"] for row in rows(world, "workers")["workers"]} == {world.worker, late, busy}
    assert run_id


def test_a_session_of_one_run_goes_after_it_and_the_ongoing_one_stays(world: World) -> None:
    run_id = world.submit("a", session="isolated").run_id
    world.do("a")
    finished(world, days=100)
    age(world, run_id)
    with world.store.write() as tx:
        tx.execute(update(sessions).values(last_activity_at=db_after(-timedelta(days=100).total_seconds())))

    done = clear(world)

    assert done is not None
    assert done.rows["sessions"] == 1
    assert [row["target"] for row in rows(world)["sessions"]] == ["main"]


def test_costs_go_only_when_their_own_age_is_set(world: World, tmp_path: Path) -> None:
    finished(world, days=100)
    world.submit("open")
    then = datetime.now(UTC) - timedelta(days=500)
    created = dict(rows(world)["costs"][0]) | {"occurred_at": then}
    with world.store.write() as tx:
        tx.execute(costs.insert(), [created | {"id": "old"}, created | {"id": "of-open", "run_id": world.run_id}])
    before = rows(world)["costs"]

    clear(world)
    assert rows(world)["costs"] == before

    done = clear(
        world, RetentionAges(runs=timedelta(0), workers=timedelta(0), costs=timedelta(days=400)), archive=tmp_path
    )
    assert done is not None
    assert done.rows["costs"] == 1
    assert "old" not in {row["id"] for row in rows(world)["costs"]}
    assert "of-open" in {row["id"] for row in rows(world)["costs"]}
    (kept,) = archives.read(done.archives[0])
    assert kept["id"] == "old"


class TestKeptFiles:
    @pytest.fixture
    def files(self, tmp_path: Path) -> ArtifactStore:
        return ArtifactStore(f"file://{tmp_path}/kept")

    def made(self, world: World, files: ArtifactStore) -> tuple[str, list[Path]]:
        """Return both files: an old run's kept file, and one of an attempt that never ended."""
        run_id = world.submit("a", tasks={"a": {"outputs": ["x"]}}).run_id
        world.claim("a")
        place = [world.workspace, run_id, world.ids["a"]]
        lost, kept = (
            files.keep(BytesIO(b"x"), "x", place=[*place, attempt], on_chunk=lambda _size: None) for attempt in "01"
        )
        world.finish("a", artifacts=(kept,))
        age(world, run_id)
        return run_id, [Path(one.url.removeprefix("file://")) for one in (lost, kept)]

    def test_they_go_with_their_run_listed_or_not(self, world: World, files: ArtifactStore) -> None:
        _, paths = self.made(world, files)
        assert all(path.exists() for path in paths)

        done = clear(world, artifacts=files)

        assert done is not None
        assert done.rows["artifacts"] == 1
        assert not any(path.exists() for path in paths)

    def test_rows_stay_while_files_cannot_be_deleted(
        self, world: World, files: ArtifactStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id, _ = self.made(world, files)

        def away(*_given: object) -> None:
            raise Unavailable("The artifacts cannot be deleted: away")

        monkeypatch.setattr(ArtifactStore, "forget", away)

        with refuses(Unavailable):
            clear(world, artifacts=files)

        assert len(rows(world, "artifacts")["artifacts"]) == 1
        monkeypatch.undo()
        clear(world, artifacts=files)
        assert run_id not in {row["id"] for row in rows(world)["runs"]}
