"""Test ``coord run`` as a person uses it: interrupted and continued, with a killed worker, and two at once."""

import json
import os
import re
import signal
import sqlite3
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tests.support.fleet import SHORT_LEASES, alive
from tests.support.processes import Process, Processes, until

PLAN = """
version: 1
project: {path: %s}
tasks:
  - {key: first, run: {shell: echo first}}
  - key: slow
    needs: [first]
    run: {shell: 'echo $$ > pid.$COORD_ATTEMPT; while [ ! -e go ]; do sleep 0.05; done; echo slow'}
  - {key: last, needs: [slow], run: {shell: 'echo {{ needs.slow.output }}'}}
"""


class Place:
    """A project folder, a plan about it, and a home of its own."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.home = folder / "a home"
        self.project = folder / "project"
        self.project.mkdir()
        self.plan = folder / "plan.yaml"
        self.plan.write_text(PLAN % json.dumps(str(self.project)))
        self.env = {"COORD_HOME": str(self.home), **{k: v for k, v in SHORT_LEASES.items() if "GRACE" not in k}}

    def coord(self, *arguments: str | Path) -> Process:
        """Start the command line."""
        return self.processes.start_python("-m", "coordination.cli", *arguments, env=self.env, cwd=self.project)

    def pid_of(self, attempt: int) -> int:
        """Return the process id of the slow job's attempt."""
        path = self.project / f"pid.{attempt}"
        until(lambda: path.exists() and path.read_text().strip(), what=f"attempt {attempt}")
        return int(path.read_text())

    def rows(self, sql: str) -> list[tuple]:
        """Read the embedded database."""
        with sqlite3.connect(self.home / "coordination.db") as connection:
            result = connection.execute(sql).fetchall()
        connection.close()
        return result


@pytest.fixture
def place(processes: Processes, tmp_path: Path) -> Place:
    """Provide the folders of one test."""
    return Place(processes, tmp_path)


@pytest.mark.smoke
def test_an_interrupted_run_goes_on_with_resume(place: Place) -> None:
    running = place.coord("run", place.plan)
    job = place.pid_of(1)

    running.signal(signal.SIGINT)
    code = running.wait(within=timedelta(seconds=30))
    assert code == 130
    assert not alive(job)
    assert re.search(r"coord'? resume", running.output)  # quoted where its path has a space
    (place.project / "go").touch()
    run_id = place.rows("SELECT id FROM runs")[0][0]
    resumed = place.coord("resume", run_id)

    assert resumed.wait(within=timedelta(seconds=40)) == 0
    assert place.rows("SELECT key, state FROM tasks ORDER BY id") == [
        ("first", "completed"),
        ("slow", "completed"),
        ("last", "completed"),
    ]
    assert place.rows("SELECT number, outcome FROM attempts JOIN tasks ON id = task_id WHERE key = 'slow'") == [
        (1, "handed_back"),
        (2, "completed"),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_twice_leaves_no_job_behind(place: Place, number: signal.Signals) -> None:
    text = place.plan.read_text()
    place.plan.write_text(text.replace("'echo $$", '\'trap "" TERM INT HUP; echo $$'))
    running = place.coord("run", place.plan)
    job = place.pid_of(1)

    running.signal(number)
    until(lambda: not json.loads((place.home / "stack.json").read_text())["ready"], what="the stop began")
    running.signal(number)

    assert running.wait(within=timedelta(seconds=30)) == 130
    assert not alive(job)
    assert place.rows("SELECT state FROM tasks WHERE key = 'slow'") == [("queued",)]
    assert place.rows("SELECT outcome FROM attempts JOIN tasks ON id = task_id WHERE key = 'slow'") == [("lost",)]


def test_a_run_without_a_terminal_that_waits_for_a_person_says_so_and_ends(place: Place) -> None:
    agent = {"agent": "custom", "prompt": "x", "command": ["/bin/sh", "-c", "[ -e go ]"]}
    task = {"key": "fix", "run": agent, "max_starts": 1, "max_attempts": 3}
    place.plan.write_text(json.dumps({"version": 1, "project": {"path": str(place.project)}, "tasks": [task]}))
    running = place.coord("run", place.plan)
    assert running.wait(within=timedelta(seconds=40)) == 3
    assert "This run cannot continue until a person acts" in running.output
    assert "it has started 1 time, as often as max_starts allows" in running.output
    assert re.search("fix reached a limit of its attempts; .*coord'? tasks retry fix", running.output)
    (place.project / "go").touch()

    assert place.coord("tasks", "retry", "fix").wait(within=timedelta(seconds=30)) == 0

    assert place.coord("resume", place.rows("SELECT id FROM runs")[0][0]).wait(within=timedelta(seconds=40)) == 0


def test_a_killed_worker_of_the_embedded_stack_costs_moments_not_a_lease(place: Place) -> None:
    place.env["COORD_LEASE_TTL"] = "60s"  # so that only its parent can be quick
    running = place.coord("run", place.plan)
    job = place.pid_of(1)
    worker = json.loads((place.home / "stack.json").read_text())["services"]["worker"]["pid"]

    os.kill(worker, signal.SIGKILL)
    (place.project / "go").touch()

    assert running.wait(within=timedelta(seconds=40)) == 0
    assert not alive(job)
    assert place.rows("SELECT number, outcome FROM attempts JOIN tasks ON id = task_id WHERE key = 'slow'") == [
        (1, "lost"),
        (2, "completed"),
    ]


@pytest.mark.parametrize("owner_too", [False, True], ids=["worker", "whole-stack"])
def test_a_job_does_not_outlive_its_worker_and_warden_beside_its_next_attempt(place: Place, *, owner_too: bool) -> None:
    place.env["COORD_LEASE_TTL"] = "60s"
    job = "echo $$ > pid.$COORD_ATTEMPT; [ $COORD_ATTEMPT = 1 ] || exit 0; setsid sleep 600 & sleep 600"
    task = {"key": "slow", "run": {"agent": "custom", "prompt": "x", "command": ["/bin/sh", "-c", job]}}
    document = {"version": 1, "project": {"path": str(place.project)}, "tasks": [task]}
    place.plan.write_text(json.dumps(document))
    running = place.coord("run", place.plan)
    first = psutil.Process(place.pid_of(1))
    left = until(lambda: len(children := first.children()) == 2 and children, what="what the job has started")
    stack = json.loads((place.home / "stack.json").read_text())
    services, owner = stack["services"], stack["owner"]["pid"]
    worker = psutil.Process(services["worker"]["pid"])
    wardens = [child for child in worker.children() if "warden" in " ".join(child.cmdline())]

    worker.suspend()  # otherwise it starts another warden in between
    if owner_too:
        running.kill()
        psutil.Process(owner).kill()
    rest = [psutil.Process(one["pid"]) for one in services.values()] if owner_too else [worker]
    for process in (*wardens, *rest):
        process.kill()
    if owner_too:
        running = place.coord("resume", place.rows("SELECT id FROM runs")[0][0])
    try:
        place.pid_of(2)
        beside = [process for process in (first, *left) if alive(process.pid)]
    finally:
        for process in (first, *left):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    assert beside == []
    assert running.wait(within=timedelta(seconds=40)) == 0


def test_two_runs_on_one_home_share_its_stack(place: Place) -> None:
    first = place.coord("run", place.plan)
    place.pid_of(1)
    other = place.project.parent / "other.yaml"
    other.write_text("version: 1\ntasks:\n  - {key: quick, run: {shell: echo quick}}\n")

    second = place.coord("run", other)
    assert second.wait(within=timedelta(seconds=40)) == 0
    (place.project / "go").touch()

    assert first.wait(within=timedelta(seconds=40)) == 0


def test_a_plan_that_fails_says_why_and_exits_with_1(place: Place) -> None:
    place.plan.write_text(
        "version: 1\ntasks:\n  - {key: bad, run: {shell: 'echo broken glass >&2; exit 4'}}\n"
        "  - {key: next, needs: [bad], run: {shell: 'true'}}\n"
    )

    running = place.coord("run", place.plan)

    assert running.wait(within=timedelta(seconds=40)) == 1
    assert "exit status 4: broken glass" in running.output
    assert "1 canceled, 1 failed" in running.output
