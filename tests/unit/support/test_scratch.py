"""Test that the next test run ends the servers of one that was killed."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Processes, until
from tests.support.scratch import clear_abandoned, scratch_folder
from tests.support.sources import ROOT


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_a_folder_is_gone_with_its_block() -> None:
    with scratch_folder() as folder:
        assert folder.is_dir()

    assert not folder.exists()


def test_what_a_killed_run_left_is_ended_and_removed(processes: Processes) -> None:
    run = processes.start_python("-m", "tests.support.server_owner", env={"TMPDIR": os.environ["TMPDIR"]}, cwd=ROOT)
    output = run.wait_for(r"^(\d+) (.+)$")
    server, folder = psutil.Process(int(output[1])), Path(output[2])

    clear_abandoned()
    assert folder.is_dir()
    assert server.is_running()
    run.kill()
    clear_abandoned()

    assert not folder.exists()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, what="the server is gone")
