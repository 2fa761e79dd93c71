"""Test that a command whose reader closes the pipe, as ``head`` does, ends without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordination.base.errors import OUTPUT_CLOSED
from tests.support.command import Coord

COMMANDS = [
    "runs list",
    "runs show three",
    "runs events three --json",
    "tasks list",
    "tasks list --json",
    "tasks show a --json",
    "status",
    "doctor --json",
    "schema plan",
    "export beads",
    "--help",
    "nonsense",  # reported on stderr, which is not read either
    "tasks list --nonsense",
]


def unread(coord: Coord, *argv: str) -> tuple[int, str]:
    """Return the exit code and the stderr of a command whose stdout is never read."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-m", "coordination.cli", *argv],
            cwd=coord.cwd,
            env=coord.environment,
            stdin=subprocess.DEVNULL,
            stdout=writes,
            stderr=subprocess.PIPE,
            check=False,
            timeout=120,
        )
    finally:
        os.close(writes)
    return done.returncode, done.stderr.decode()


@pytest.fixture
def with_a_run(coord: Coord, plan: Path) -> Coord:
    coord("submit", plan)
    (coord.cwd / "x.jsonl").write_text('{"id": "x-1", "title": "t", "status": "open", "priority": 1}\n')
    coord("import", "beads", "x.jsonl")
    return coord


@pytest.mark.full
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_reader_has_gone_ends_in_silence(with_a_run: Coord, command: str) -> None:
    code, output = unread(with_a_run, *command.split())

    assert "Traceback" not in output
    assert "Error" not in output or "nonsense" in command
    assert "Exception ignored" not in output
    assert code == (2 if "nonsense" in command else OUTPUT_CLOSED)


def test_a_reader_that_goes_after_the_first_line_has_it(with_a_run: Coord) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "coordination.cli", "runs", "events", "three", "--follow", "--json"],
        cwd=with_a_run.cwd,
        env=with_a_run.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as follows:
        assert follows.stdout is not None
        assert follows.stderr is not None
        first = follows.stdout.readline()
        follows.stdout.close()
        with_a_run("runs", "cancel", "three")  # some output
        text = follows.stderr.read().decode()
        code = follows.wait(timeout=120)

    assert b'"type"' in first
    assert (code, text) == (OUTPUT_CLOSED, "")


def test_nobody_reads_an_error_either(coord: Coord) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "coordination.cli", "nonsense"],
            cwd=coord.cwd,
            env=coord.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=writes,
            check=False,
            timeout=120,
        )
    finally:
        os.close(writes)

    assert (done.returncode, done.stdout) == (OUTPUT_CLOSED, b"")
