"""Test ``coord run`` on configured servers: messages when nothing can continue, its end, the state after Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.processes import Process, until
from tests.support.speed import patience

LONG = timedelta(seconds=60)
WAITS = "touch began; while [ ! -e go ]; do sleep 0.05; done; echo done"


def plan(fleet: Fleet, *tasks: dict[str, object], **more: object) -> Path:
    path = fleet.folder / "plan.json"
    project = {"name": "fleet", "path": str(fleet.folder / "project")}
    path.write_text(json.dumps({"version": 1, "project": project, "tasks": list(tasks), **more}))
    return path


def plain(said: str) -> str:
    """Return the output, with commands in their short form, as where the terminal has program and home."""
    return re.sub(r"(?:COORD_\w+=(?:'[^']*'|\S+) )*(?:'[^']*/coord'|\S*/coord) ", "coord ", said)


def start(fleet: Fleet, *arguments: str | Path) -> Process:
    argv = ("-m", "coordination.cli", *arguments)
    return fleet.processes.start_python(*argv, env=fleet.coord.environment, cwd=fleet.coord.cwd)


def test_submit_says_that_no_worker_lives_and_a_run_ends_for_want_of_one(fleet: Fleet) -> None:
    path = plan(fleet, {"key": "a", "run": {"shell": "echo hi"}})

    stored = fleet.coord("submit", path, "--json")
    ended = fleet.coord.process("run", path, "--json", code=3)

    assert stored.json["tasks"] == 1
    assert "no living worker runs jobs of the workspace default; start one with: coord worker" in stored.err
    assert "no living worker" in ended.err
    assert [(one["kind"], one["tasks"]) for one in ended.json["waits_for"]] == [("no_worker", 1)]
    assert "is no terminal, so this command ends" in ended.err
    fleet.worker()
    assert fleet.coord("submit", path).err == ""
    assert fleet.coord.process("resume", ended.json["id"], "--json").json["waits_for"] == []


def test_a_run_in_a_project_on_hold_ends_with_the_command_that_helps(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    path = plan(fleet, {"key": "a", "run": {"shell": WAITS}}, {"key": "b", "needs": ["a"], "run": {"shell": "echo b"}})
    running = start(fleet, "run", path)
    fleet.await_file_made("began")
    fleet.coord("projects", "pause", "fleet")
    fleet.file("go").touch()

    assert running.wait(within=LONG) == 3
    output = plain(running.output)
    assert "its project fleet is paused; resume it with: coord projects resume fleet" in output
    run = re.search(r"coord resume (\S+)", output)
    assert run is not None
    fleet.coord("projects", "resume", "fleet")
    assert fleet.coord.process("resume", run[1]).code == 0


def test_a_run_whose_next_start_is_in_the_future_says_so_and_waits(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    path = plan(fleet, {"key": "a", "run": {"shell": "echo a"}, "not_before": "2999-01-01T00:00:00Z"})
    running = start(fleet, "run", path)

    running.wait_for("a is the first, at 2999-01-01")
    assert "This command waits" in running.output

    running.signal(signal.SIGINT)
    assert running.wait(within=LONG) == 130


def test_ctrl_c_on_configured_servers_says_that_the_run_goes_on(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    running = start(fleet, "run", plan(fleet, {"key": "a", "run": {"shell": WAITS}, "repeatable": False}))
    fleet.await_file_made("began")

    running.signal(signal.SIGINT)

    assert running.wait(within=LONG) == 130
    output = plain(running.output)
    assert "the run continues, on the workers that are configured" in output
    run = fleet.coord("runs", "list", "--json").json["runs"][0]["id"]
    assert f"Watch it: coord resume {run}" in output
    assert f"Cancel it: coord runs cancel {run}" in output
    fleet.file("go").touch()
    assert fleet.coord.process("resume", run).code == 0
    assert fleet.coord("runs", "show", run, "--json").json["tasks"][0]["attempt"] == 1


def test_at_a_terminal_a_run_that_stands_still_waits_and_goes_on(fleet: Fleet) -> None:
    path = plan(fleet, {"key": "a", "run": {"shell": "echo hi"}})
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "coordination.cli", "run", str(path)],
        env={**fleet.coord.environment, "TERM": "dumb"},
        cwd=fleet.coord.cwd,
        stdin=follower,
        stdout=subprocess.PIPE,  # as behind a pipe to tee: the person is still at the terminal
        start_new_session=True,
    )
    os.close(follower)
    try:
        assert process.stdout is not None
        output = b""
        while not re.search(rb"after Ctrl-C: .*coord'? resume", output):
            chunk = os.read(process.stdout.fileno(), 4096)
            assert chunk, output
            output += chunk
        assert b"no living worker" in output
        fleet.worker()

        until(lambda: process.poll() is not None, within=LONG, what="the run's end")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait(patience(LONG).total_seconds())
        os.close(leader)
        if process.stdout is not None:
            process.stdout.close()
