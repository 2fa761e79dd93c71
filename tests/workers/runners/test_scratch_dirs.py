"""Test folders that are deleted with their process; a lock, not their age, shows that the process has ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from coordination.base.errors import Refused
from tests.support.processes import Processes
from tests.support.refusals import refuses
from tests.support.sources import ROOT
from workers.runners import scratch_dirs
from workers.runners.scratch_dirs import IN_HOME, create, delete_abandoned


def test_one_that_is_closed_is_gone(tmp_path: Path) -> None:
    own = create(tmp_path / "made" / "too", IN_HOME)
    (own.path / "file").touch()
    assert own.path.stat().st_mode & 0o777 == 0o700

    own.close()
    own.close()

    assert list((tmp_path / "made" / "too").iterdir()) == []


def test_what_a_killed_process_left_is_taken_away_and_what_lives_is_not(tmp_path: Path, processes: Processes) -> None:
    ours = create(tmp_path, IN_HOME)
    owner = processes.start_python("-m", "tests.support.folder_owner", tmp_path, cwd=ROOT)
    theirs = Path(owner.wait_for(r"^(/.+)$")[1])
    os.utime(theirs, (0, 0))  # however old it is

    assert delete_abandoned(tmp_path, IN_HOME) == 0
    owner.signal(signal.SIGSTOP)
    assert delete_abandoned(tmp_path, IN_HOME) == 0
    owner.kill()
    assert delete_abandoned(tmp_path, IN_HOME) == 1

    assert [ours.path] == list(tmp_path.iterdir())
    ours.close()


def test_what_is_not_ours_to_judge_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("w-00000000-12345678", "other", "coord-worker-x", "w-", "w-rubbish")
    for name in names:
        (tmp_path / name).mkdir()
    abandoned = create(tmp_path, IN_HOME)
    os.close(abandoned._fd)
    (tmp_path / "target").mkdir()
    (tmp_path / f"{abandoned.path.name}x").symlink_to(tmp_path / "target")
    monkeypatch.setattr(scratch_dirs, "host", lambda: "elsewhere")
    monkeypatch.setattr(scratch_dirs, "boot_id", lambda: "another/pid:[1]")
    assert delete_abandoned(tmp_path, IN_HOME) == 0
    monkeypatch.undo()

    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert delete_abandoned(tmp_path, IN_HOME) == 0
    monkeypatch.undo()

    monkeypatch.setattr(scratch_dirs, "boot_id", lambda: "the next one/pid:[1]")
    assert delete_abandoned(tmp_path, IN_HOME) == 1  # after a reboot
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*names, "target", f"{abandoned.path.name}x"],
    )


def test_a_fork_neither_takes_it_away_nor_loses_the_lock(tmp_path: Path) -> None:
    own = create(tmp_path, IN_HOME)
    child = os.fork()
    if not child:
        own.close()
        os._exit(0)
    os.waitpid(child, 0)

    assert delete_abandoned(tmp_path, IN_HOME) == 0
    assert own.path.is_dir()
    own.close()


def test_one_that_is_cleared_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, results = scratch_dirs.fcntl.flock, []

    def late(fd: int, how: int) -> None:
        if not results:
            results.append(True)
            assert delete_abandoned(tmp_path, IN_HOME) == 1
        lock(fd, how)

    monkeypatch.setattr(scratch_dirs.fcntl, "flock", late)
    own = create(tmp_path, IN_HOME)

    assert own.path.is_dir()
    assert delete_abandoned(tmp_path, IN_HOME) == 0
    own.close()


def test_folders_that_a_job_made_read_only_go_too(tmp_path: Path) -> None:
    own = create(tmp_path, IN_HOME)
    (own.path / "cache" / "deep").mkdir(parents=True)
    (own.path / "cache" / "deep" / "file").touch()
    (own.path / "cache" / "deep").chmod(0o500)
    (own.path / "cache").chmod(0o500)

    own.close()

    assert not own.path.exists()


def test_where_none_can_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with refuses(Refused):
        create(tmp_path / "file", IN_HOME)


def test_nothing_is_cleared_where_there_is_nothing(tmp_path: Path) -> None:
    assert delete_abandoned(tmp_path / "nowhere", IN_HOME) == 0
