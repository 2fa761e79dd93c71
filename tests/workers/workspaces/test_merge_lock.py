"""Test that the merge lock is granted in the order of the requests, and that dead processes do not block it."""

from __future__ import annotations

import fcntl
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.processes import Processes, until
from tests.support.sources import ROOT
from tests.support.speed import patience
from workers.runners.base import Control, StopReason
from workers.workspaces import merge_lock
from workers.workspaces.git import GitFailed, GitInterrupted
from workers.workspaces.merge_lock import hold_lock

LONG = timedelta(seconds=60)


def control(tmp_path: Path) -> Control:
    return Control(scratch=tmp_path)


def test_turns_come_in_the_order_in_which_they_were_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "queue"
    order: list[int] = []
    threads = []

    def work(number: int) -> None:
        with hold_lock(folder, control(tmp_path), limit=LONG):
            order.append(number)

    with hold_lock(folder, control(tmp_path), limit=LONG):
        for number in range(8):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            until(lambda wanted=number + 3: len(list(folder.iterdir())) == wanted, what="another ticket")
        assert order == []
    for thread in threads:
        thread.join(patience(30))

    assert order == list(range(8))
    assert not folder.exists()


def test_who_comes_first_goes_before_all_that_wait(tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    order: list[int] = []
    threads = []

    def work(number: int) -> None:
        with hold_lock(folder, control(tmp_path), limit=LONG, first=number >= 2):
            order.append(number)

    with hold_lock(folder, control(tmp_path), limit=LONG):
        for number in range(4):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            until(lambda wanted=number + 3: len(list(folder.iterdir())) == wanted, what="another ticket")
    for thread in threads:
        thread.join(patience(30))

    assert order == [2, 3, 0, 1]


def test_many_never_have_it_at_once(tmp_path: Path) -> None:
    inside, most = 0, 0
    folder = tmp_path / "queue"

    def work() -> None:
        nonlocal inside, most
        for _ in range(10):
            with hold_lock(folder, control(tmp_path), limit=LONG):
                inside += 1
                most = max(most, inside)
                threading.Event().wait(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience(60))

    assert most == 1


def test_who_waits_hears_that_it_must_stop_and_gives_up_in_time(tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    with hold_lock(folder, control(tmp_path), limit=LONG):
        stopped = control(tmp_path)
        stopped.stop(StopReason.SHUTDOWN)
        with pytest.raises(GitInterrupted) as interrupted, hold_lock(folder, stopped, limit=LONG):
            pass
        with (
            pytest.raises(GitFailed, match="too long") as failed,
            hold_lock(folder, control(tmp_path), limit=timedelta(milliseconds=50)),
        ):
            pass

    assert interrupted.value.interruption.outcome is Outcome.HANDED_BACK
    assert failed.value.transient
    assert not folder.exists()


def test_a_holder_that_is_killed_holds_nobody_up(tmp_path: Path, processes: Processes) -> None:
    folder = tmp_path / "queue"
    holder = processes.start_python("-m", "tests.support.queue_holder", folder, cwd=ROOT)
    holder.wait_for("has it")
    with pytest.raises(GitFailed), hold_lock(folder, control(tmp_path), limit=timedelta(milliseconds=50)):
        pass
    holder.kill()

    with hold_lock(folder, control(tmp_path), limit=timedelta(seconds=5)):
        pass

    assert not folder.exists()


def test_a_ticket_that_is_torn_up_before_it_is_locked_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    taken_away = []

    def looks_first(fd: int, how: int) -> None:
        if not taken_away:
            taken_away.append([merge_lock._is_dead(ticket) for ticket in tmp_path.iterdir()])  # as a waiting one does
        real(fd, how)

    monkeypatch.setattr(merge_lock.fcntl, "flock", lambda fd, how: (monkeypatch.undo(), looks_first(fd, how)))
    fd, name = merge_lock._ticket(tmp_path)

    assert taken_away == [[True]]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert not merge_lock._is_dead(tmp_path / name)
    os.close(fd)


def test_a_lock_whose_name_is_taken_away_in_that_moment_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def leaves_first(fd: int, how: int) -> None:
        (tmp_path / "lock").unlink()  # as the previous holder does when it releases the lock
        real(fd, how)

    monkeypatch.setattr(merge_lock.fcntl, "flock", leaves_first)
    nothing = merge_lock._lock(tmp_path)
    monkeypatch.undo()
    result = merge_lock._lock(tmp_path)

    assert nothing == -1
    assert result >= 0
    os.close(result)
