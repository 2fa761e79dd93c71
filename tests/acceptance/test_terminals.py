"""Test several terminals on one embedded stack: whichever command started it ends, the jobs of the others continue."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.stack import running
from coordination.stack.home import Home, RunningStack
from coordination.stack.users import StackUsers
from tests.support.command import Coord
from tests.support.fleet import UNHURRIED, alive
from tests.support.processes import Process, Processes, until
from tests.support.scratch import scratch_folder
from tests.support.speed import patience

WAITS = "echo $$ > {key}.$COORD_ATTEMPT; while [ ! -e {key}.go ]; do sleep 0.05; done; echo done"
LONG = timedelta(seconds=60)


class Site:
    """A project folder and a home; every command in it stands for a terminal."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.project = folder / "project"
        self.project.mkdir()
        self.home = Home(folder / "home")
        self.coord = Coord(self.home.folder, self.project, {**UNHURRIED, "COORD_CANCEL_GRACE": "1s"})

    def plan(self, key: str, **task: object) -> Path:
        """Write a plan of one job, which runs until the test releases it."""
        path = self.project / f"{key}.yaml"
        job = {"key": key, "run": {"shell": WAITS.format(key=key)}, **task}
        path.write_text(json.dumps({"version": 1, "project": {"path": str(self.project)}, "tasks": [job]}))
        return path

    def terminal(self, *arguments: str | Path) -> Process:
        """Start a command that keeps running."""
        argv = ("-m", "coordination.cli", *arguments)
        return self.processes.start_python(*argv, env=self.coord.environment, cwd=self.project)

    def job(self, key: str, attempt: int = 1) -> int:
        """Return the process of a job's attempt, once it runs."""
        path = self.project / f"{key}.{attempt}"
        until(lambda: path.exists() and path.read_text().strip(), within=LONG, what=f"attempt {attempt} of {key}")
        return int(path.read_text())

    def let_go(self, key: str) -> None:
        """Let that job end."""
        (self.project / f"{key}.go").touch()

    def stack(self) -> RunningStack:
        """Return the running stack."""
        result = self.home.read()
        assert result is not None
        return result

    def ends_of(self, key: str) -> list[tuple[int, str, str]]:
        """Return the outcomes of the job's attempts, and the state of its task."""
        with closing(sqlite3.connect(self.home.folder / "coordination.db")) as connection:
            return connection.execute(
                "SELECT number, outcome, state FROM attempts JOIN tasks ON id = task_id WHERE key = ? ORDER BY number",
                (key,),
            ).fetchall()


@pytest.fixture
def site(processes: Processes) -> Iterator[Site]:
    """Provide the folders of one test."""
    with scratch_folder() as folder:
        created = Site(processes, folder)
        yield created
        processes.close()
        running.down(created.home.folder, now=True)


def finishes(site: Site, first: Process) -> None:
    site.let_go("first")
    assert first.wait(within=LONG) == 0


def is_interrupted(site: Site, first: Process) -> None:
    first.signal(signal.SIGINT)
    assert first.wait(within=LONG) == 130
    assert "the run continues" in first.output
    run = site.coord("runs", "list", "--json").json["runs"][-1]["id"]
    assert f"coord resume {run}" in first.output
    assert f"coord runs cancel {run}" in first.output


def is_killed(site: Site, first: Process) -> None:
    first.kill()


def loses_its_terminal(site: Site, first: Process) -> None:
    first.signal(signal.SIGHUP)
    assert first.wait(within=LONG) == 130


@pytest.mark.parametrize("ends", [finishes, is_interrupted, is_killed, loses_its_terminal])
def test_a_job_that_must_not_be_repeated_outlives_the_terminal_that_started_its_stack(
    site: Site, ends: Callable[[Site, Process], None]
) -> None:
    first = site.terminal("run", site.plan("first"))
    site.job("first")
    second = site.terminal("run", site.plan("once", repeatable=False))
    job = site.job("once")
    stack = site.stack()

    ends(site, first)
    until(lambda: len(StackUsers(site.home).present()) == 1, what="only the second uses the stack")

    assert alive(job)
    assert site.stack().owner == stack.owner
    site.let_go("once")
    assert second.wait(within=LONG) == 0
    assert site.ends_of("once") == [(1, "completed", "completed")]
    assert not site.home.is_owned()
    assert not any(service.alive() for service in stack.services.values())


def test_the_only_terminal_that_is_killed_takes_its_stack_with_it(site: Site) -> None:
    first = site.terminal("run", site.plan("first"))
    job = site.job("first")

    first.kill()

    until(lambda: not site.home.is_owned(), within=LONG, what="the stack's end")
    assert not alive(job)
    assert site.ends_of("first") == [(1, "handed_back", "queued")]


def test_a_suspended_terminal_still_uses_its_stack(site: Site) -> None:
    first = site.terminal("run", site.plan("first"))
    job = site.job("first")
    first.signal(signal.SIGTSTP)
    second = site.terminal("run", site.plan("quick"))
    site.job("quick")
    site.let_go("quick")
    assert second.wait(within=LONG) == 0

    assert alive(job)
    site.let_go("first")
    until(lambda: site.ends_of("first") == [(1, "completed", "completed")], within=LONG, what="its job's end")
    assert site.home.is_owned()
    first.signal(signal.SIGCONT)

    assert first.wait(within=LONG) == 0
    assert not site.home.is_owned()


def test_a_stack_whose_process_is_killed_is_started_again_by_who_waits(site: Site) -> None:
    first = site.terminal("run", site.plan("first"))
    second = site.terminal("run", site.plan("second"))
    site.job("first")
    site.job("second")
    killed = site.stack()

    os.kill(killed.owner.pid, signal.SIGKILL)
    site.job("first", 2)
    site.job("second", 2)
    assert site.stack().owner != killed.owner
    site.let_go("first")
    site.let_go("second")

    assert [first.wait(within=LONG), second.wait(within=LONG)] == [0, 0]


def test_two_terminals_that_begin_at_once_share_one_stack(site: Site) -> None:
    for key in ("first", "second"):
        site.plan(key)
        site.let_go(key)
    both = [site.terminal("run", site.project / f"{key}.yaml") for key in ("first", "second")]

    assert [one.wait(within=LONG) for one in both] == [0, 0]
    assert site.ends_of("first") == site.ends_of("second") == [(1, "completed", "completed")]
    assert not site.home.is_owned()


def test_up_keeps_the_stack_of_a_run_and_lets_go_of_one_that_a_run_uses(site: Site) -> None:
    run = site.terminal("run", site.plan("first"))
    site.job("first")
    up = site.terminal("up")
    up.wait_for("stack is up")
    site.let_go("first")
    assert run.wait(within=LONG) == 0
    assert site.home.is_owned()
    other = site.terminal("run", site.plan("other"))
    job = site.job("other")

    up.signal(signal.SIGINT)

    assert up.wait(within=LONG) == 0
    assert re.search("stays up for .*coord run", up.output)
    assert alive(job)
    site.let_go("other")
    assert other.wait(within=LONG) == 0
    assert not site.home.is_owned()


def test_up_detached_keeps_the_stack_until_down_which_ends_who_waits(site: Site) -> None:
    assert site.coord.process("up", "--detach").out
    watching = site.terminal("run", site.plan("first"))
    job = site.job("first")

    down = site.coord.process("down", "--now")

    assert re.search("This ends .*coord run", down.out)
    assert "coord resume" in down.out
    assert watching.wait(within=LONG) == 130
    assert "was stopped" in watching.output
    assert "coord resume" in watching.output
    assert not alive(job)
    assert site.ends_of("first") == [(1, "handed_back", "queued")]


def test_down_says_what_it_waits_for_and_a_second_one_does_not_wait(site: Site) -> None:
    site.coord = replace(site.coord, settings={**site.coord.settings, "COORD_SHUTDOWN_GRACE": "10m"})
    site.coord.process("up", "--detach")
    site.coord("submit", site.plan("slow"))
    site.job("slow")

    down = site.terminal("down")
    down.wait_for(r"Waiting for 1 job, with a grace period of 10m")
    down.wait_for(r"  slow of run \S+ \(project\), running for")
    down.wait_for("coord down --now")
    assert down.exit_code is None
    site.coord.process("down", "--now")

    assert down.wait(within=LONG) == 0
    assert site.ends_of("slow") == [(1, "handed_back", "queued")]


def test_a_closed_terminal_of_a_shared_stack_leaves_the_others_alone(site: Site) -> None:
    first, leader = in_a_terminal(site, "run", site.plan("first"))
    site.job("first")
    second = site.terminal("run", site.plan("once", repeatable=False))
    site.job("once")

    os.close(leader)  # which closes the connection

    first.wait(timeout=patience(LONG).total_seconds())
    site.let_go("once")
    assert second.wait(within=LONG) == 0
    assert site.ends_of("once") == [(1, "completed", "completed")]


def in_a_terminal(site: Site, *arguments: str | Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command whose controlling terminal is a new pseudo-terminal; return it, and the terminal's other end."""
    leader, follower = pty.openpty()
    takes_it = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", takes_it, sys.executable, "-m", "coordination.cli", *map(str, arguments)],
        env=site.coord.environment,
        cwd=site.project,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    return process, leader
