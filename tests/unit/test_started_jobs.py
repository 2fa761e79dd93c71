"""Test the record of a worker's started jobs: a SIGKILL loses none of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from coordination.base import started_jobs
from coordination.base.ids import new_id
from coordination.base.started_jobs import StartedJobs

WORKER = "0190-worker"


def folder_in(scratch: Path) -> Path:
    folder = scratch / "w-1234"
    folder.mkdir()
    return folder


def test_what_has_begun_and_not_ended_is_there(tmp_path: Path) -> None:
    jobs = StartedJobs(folder_in(tmp_path), WORKER, 3)
    first, second = new_id(), new_id()
    jobs.begin(first, 1)
    jobs.begin(second, 12)

    assert started_jobs.read(tmp_path, WORKER) == {(first, 1), (second, 12)}

    jobs.end([(first, 1), ("never begun", 1)])
    assert started_jobs.read(tmp_path, WORKER) == {(second, 12)}


def test_more_than_there_are_places_for_are_not_noted_and_places_come_back(tmp_path: Path) -> None:
    jobs = StartedJobs(folder_in(tmp_path), WORKER, 1)
    jobs.begin("a", 1)
    jobs.begin("b", 1)
    jobs.end([("b", 1), ("a", 1)])
    jobs.begin("b", 2)

    assert started_jobs.read(tmp_path, WORKER) == {("b", 2)}


def test_it_is_there_after_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from coordination.base.started_jobs import StartedJobs\n"
        f"StartedJobs(Path(sys.argv[1]), {WORKER!r}, 2).begin('task', 7); os.kill(os.getpid(), signal.SIGKILL)"
    )

    done = subprocess.run([sys.executable, "-c", program, str(folder_in(tmp_path))], check=False)

    assert done.returncode == -signal.SIGKILL
    assert started_jobs.read(tmp_path, WORKER) == {("task", 7)}


def test_nobody_knows_of_a_worker_without_a_file_and_garbage_names_no_job(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    assert started_jobs.read(tmp_path, WORKER) is None

    (folder / f"started-{WORKER}").write_bytes(os.urandom(640) + b"task x".ljust(64) + b"task 5".ljust(64))

    assert ("task", 5) in (started_jobs.read(tmp_path, WORKER) or ())
