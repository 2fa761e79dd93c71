"""Test files that jobs produce: real workers keep them, commands list and fetch them, and they go with their run."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.adapters.artifact_store import ArtifactStore
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import RunState
from coordination.flows.projects.retain import RetentionAges, retain
from tests.support.fleet import Fleet
from tests.support.processes import Process, until


def coord(fleet: Fleet, *arguments: str) -> Process:
    return fleet.processes.start_python("-m", "coordination.cli", *arguments, env=fleet.env, cwd=fleet.folder)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.smoke
def test_what_jobs_leave_is_listed_fetched_and_gone_with_their_run(fleet: Fleet) -> None:
    fleet.file("making.py").write_text("def make():\n    open('answer.json', 'w').write('42')\n")
    fleet.worker("-c", "2")
    run = fleet.submit(
        Task("build", {"shell": "mkdir -p out; echo hi > out/a.txt; echo ho > 'out/b c.txt'"}, outputs=["out/*.txt"]),
        Task("make", {"python": "making:make"}, outputs=["answer.json"]),
        *(Task(f"plain{number}", {"python": "making:make"}) for number in range(5)),
    )
    assert run.wait(timeout=60) is RunState.COMPLETED

    listed = coord(fleet, "tasks", "artifacts", "build", "--json")
    got = coord(fleet, "tasks", "artifacts", "build", "--get", "here")

    assert (listed.wait(), got.wait()) == (0, 0)
    document = json.loads(listed.output)["artifacts"]
    assert [(one["path"], one["size"]) for one in document] == [("out/a.txt", 3), ("out/b c.txt", 3)]
    assert (fleet.folder / "here" / "out" / "b c.txt").read_text() == "ho\n"
    assert [one.path for one in run.task("make").artifacts()] == ["answer.json"]
    assert run.task("plain1").artifacts() == []
    kept = fleet.folder / "home" / "artifacts"
    assert len(files(kept)) == 3
    runtime = fleet.co.runtime
    until(lambda: run.record.finished_at, what="the run is closed")

    done = retain(
        runtime.store,
        runtime.workspace_id,
        RetentionAges(runs=timedelta(microseconds=1), workers=timedelta(0), costs=timedelta(0)),
        artifacts=ArtifactStore(runtime.settings.artifacts_url),
        rest=lambda _seconds: False,
    )

    assert done is not None
    assert done.rows["artifacts"] == 3
    assert files(kept) == []


def test_a_missing_output_fails_the_task_and_a_retry_mends_it(fleet: Fleet) -> None:
    fleet.worker()
    command = "echo $COORD_ATTEMPT > common; if [ $COORD_ATTEMPT = 2 ]; then echo y > second; fi"
    wait = Backoff(initial=timedelta(0))
    run = fleet.submit(Task("job", {"shell": command}, outputs=["common", "second"], max_attempts=2, backoff=wait))

    assert run.wait(timeout=60) is RunState.COMPLETED

    task = run.task("job")
    first, second = task.attempts()
    assert first.error == "Its output 'second' is missing: the job left no such file in its folder."
    assert second.error is None
    assert [one.path for one in task.artifacts()] == ["common", "second"]
    assert coord(fleet, "tasks", "artifacts", "job", "--get", "here").wait() == 0
    assert (fleet.folder / "here" / "common").read_text() == "2\n"


@pytest.mark.expiring
def test_a_worker_that_dies_while_it_copies_lists_nothing_of_that(fleet: Fleet) -> None:
    large = 600_000_000
    command = f"if [ $COORD_ATTEMPT = 1 ]; then truncate -s {large} a; else rm a; echo hi > a; fi"
    worker = fleet.worker()
    run = fleet.submit(Task("job", {"shell": command}, outputs=["a"]))
    (half,) = until(lambda: files(fleet.folder / "home" / "artifacts"), what="the copy begins")

    worker.kill()
    fleet.worker()

    assert half.stat().st_size < large
    assert run.wait(timeout=30) is RunState.COMPLETED
    (kept,) = run.task("job").artifacts()
    assert (kept.path, kept.size) == ("a", 3)
    assert str(half) not in kept.url
