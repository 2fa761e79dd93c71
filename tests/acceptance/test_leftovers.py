"""Test the folders that a killed worker leaves: in its home, and for its socket in the system's temporary folder."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import psutil
import pytest

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet
from tests.support.processes import Process, until
from workers.runners import scratch_dirs

pytestmark = pytest.mark.stores("sqlite")

COORD = shlex.quote(str(Path(sys.executable).with_name("coord")))
WAITS = "echo $COORD_URL > $COORD_TASK_KEY.url; while [ ! -e go ]; do sleep 0.05; done; " + COORD + " task progress x"


def folder_of_socket(fleet: Fleet, key: str) -> Path:
    return Path(fleet.await_file(f"{key}.url").strip().removeprefix("unix:")).parent


def of_workers(fleet: Fleet) -> set[Path]:
    return set((fleet.folder / "home" / "scratch").iterdir())


def held_by(worker: Process) -> set[Path]:
    """Return our folders that this process and its children keep open."""
    folders = set()
    for process in (owner := psutil.Process(worker.pid), *owner.children(recursive=True)):
        for fd in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                target = fd.readlink()
            except OSError:
                continue
            if re.search(rf"/({scratch_dirs.IN_TEMPORARY}|{scratch_dirs.IN_HOME})[^/]+$", str(target)):
                folders.add(target)
    return folders


@pytest.mark.expiring
def test_nothing_of_a_killed_worker_is_left_once_another_starts(fleet: Fleet) -> None:
    first = fleet.worker("-c", "1")
    fleet.submit(Task("a", {"shell": WAITS}))
    of_dead = {folder_of_socket(fleet, "a"), *of_workers(fleet)}
    second = fleet.worker()
    run = fleet.submit(Task("b", {"shell": WAITS}))
    of_living = {folder_of_socket(fleet, "b"), *(of_workers(fleet) - of_dead)}
    assert len(of_dead | of_living) == 4

    first.kill()
    third = fleet.worker()

    assert not [path for path in of_dead if path.exists()]
    assert all(path.is_dir() for path in of_living)
    fleet.file("go").touch()
    assert run.wait(timeout=30) is RunState.COMPLETED  # and its socket still answers
    assert any(event.payload.get("text") == "x" for event in run.task("b").events())
    second.stop()
    third.stop()
    assert of_workers(fleet) == set()
    assert not [path for path in of_living if path.exists()]


@pytest.mark.expiring
def test_a_living_worker_clears_up_without_another_start(fleet: Fleet) -> None:
    first = fleet.worker("-c", "1")
    fleet.worker(COORD_RETENTION_EVERY="1s")
    fleet.submit(Task("a", {"shell": WAITS}))
    of_dead = held_by(first)
    assert of_dead

    first.kill()

    until(lambda: not [path for path in of_dead if path.exists()], what="the dead worker's folders are gone")


@pytest.mark.expiring
def test_a_killed_pool_of_processes_leaves_nothing_either(fleet: Fleet, tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    pool = fleet.worker("-P", "prefork", "-c", "2", TMPDIR=str(temporary))
    # of the two that work, and of their parent
    folders = until(lambda: len(current := held_by(pool)) == 3 and current, what="three processes have their folders")
    assert all(path.is_dir() for path in folders)

    children = psutil.Process(pool.pid).children(recursive=True)
    pool.kill()
    psutil.wait_procs(children, timeout=20)
    again = fleet.worker("-P", "prefork", "-c", "2", TMPDIR=str(temporary))

    assert not [path for path in folders if path.exists()]
    folders = until(lambda: len(current := held_by(again)) == 3 and current, what="three processes have their folders")
    again.stop()
    assert not [path for path in folders if path.exists()]
    assert list(temporary.iterdir()) == []
