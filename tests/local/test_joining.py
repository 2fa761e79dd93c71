"""Test commands that share a stack: it starts with the first, ends with the last, and each gets the stack's end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coordination.base.errors import (
    RedisUnavailable,
    SettingsError,
    StackGoneError,
    StackRunning,
    StackStoppedError,
    Unavailable,
)
from coordination.cli.stack.stack import StopMessages
from coordination.stack import joining, running, stack
from coordination.stack.home import Home
from coordination.stack.joining import JoinedStack
from coordination.stack.users import StackUsers
from tests.support.processes import Processes, until
from tests.support.refusals import refuses
from tests.support.stacks import OWNER, owner_environment, settings_in, stand_in, worker_pid


@pytest.fixture(autouse=True)
def _ended(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", owner_environment(home)["PYTHONPATH"])
    yield
    running.down(home, now=True)


def join(home: Path, how: str = "obeys", command: str = "coord run plan.yaml") -> JoinedStack:
    argv = [sys.executable, OWNER, "--users", how]
    return joining.join(settings_in(home), argv, command, prepare=lambda: None)


class TestJoin:
    def test_the_first_starts_a_stack_and_the_last_ends_it(self, home: Path) -> None:
        first = join(home)
        second = join(home)
        assert (first.started, second.started) == (True, False)
        assert first.record.owner == second.record.owner

        stays = first.leave()

        assert [words.partition(" (")[0] for words in stays] == ["coord run plan.yaml"]
        assert second.problem() is None
        assert second.leave() == []
        assert not Home(home).is_owned()
        assert not any(process.alive() for process in second.record.services.values())
        assert (home / "drained").exists()

    def test_its_process_is_away_from_the_terminal_and_from_the_folder(self, home: Path) -> None:
        joined = join(home)

        owner = psutil.Process(joined.record.owner.pid)
        assert os.getsid(owner.pid) == owner.pid
        assert owner.cwd() == str(home)
        joined.leave()

    def test_a_kept_stack_outlives_its_users(self, home: Path) -> None:
        joined = join(home)
        joined.keep()

        assert joined.leave() == ["coord up --detach"]

        assert Home(home).is_owned()
        assert running.down(home)

    def test_that_it_was_kept_once_means_nothing_to_the_next(self, home: Path) -> None:
        first = join(home)
        first.keep()
        first.leave()
        running.down(home)

        assert join(home).leave() == []

    def test_why_it_cannot_start_is_said_in_its_own_words(self, home: Path) -> None:
        with refuses(Unavailable, varies=r"The worker.*"):
            join(home, "dies")

        assert not Home(home).is_owned()
        assert StackUsers(Home(home)).present() == []

    def test_a_process_that_ends_without_a_word_is_quoted(self, home: Path) -> None:
        argv = [sys.executable, "-c", "import sys; sys.exit('the cat ate it')"]

        with refuses(Unavailable):
            joining.join(settings_in(home), argv, "coord up", prepare=lambda: None)

    def test_nothing_is_started_when_the_preparation_is_refused(self, home: Path) -> None:
        def prepare() -> None:
            raise SettingsError("No")

        with pytest.raises(SettingsError):
            joining.join(settings_in(home), [sys.executable, OWNER, "--users"], "coord run", prepare=prepare)

        assert not Home(home).is_owned()
        assert StackUsers(Home(home)).present() == []

    def test_the_loser_of_two_that_start_at_once_uses_the_stack_of_the_other(self, home: Path) -> None:
        def other_first() -> None:
            others.append(join(home))

        others: list[JoinedStack] = []
        argv = [sys.executable, OWNER, "--users"]

        mine = joining.join(settings_in(home), argv, "coord run", prepare=other_first)

        assert mine.record.owner == others[0].record.owner
        others[0].leave()
        assert mine.leave() == []

    def test_a_stack_of_an_earlier_version_is_used_and_left_alone(self, home: Path) -> None:
        with stack.start(settings_in(home), with_beat=False, worker_argv=stand_in()) as owned:
            joined = join(home)

            assert joined.leave() == [f"another command (process {os.getpid()})"]
            assert psutil.pid_exists(worker_pid(owned))


class TestEnds:
    def test_one_that_was_stopped_says_so_to_who_used_it(self, home: Path) -> None:
        joined = join(home)

        running.down(home)

        assert isinstance(joined.problem(), StackStoppedError)
        assert joined.leave() == []

    def test_one_that_was_killed_says_nothing(self, home: Path) -> None:
        joined = join(home)

        os.kill(joined.record.owner.pid, signal.SIGKILL)
        until(lambda: not Home(home).is_owned())

        assert isinstance(joined.problem(), StackGoneError)
        joined.leave()

    def test_a_user_that_is_killed_leaves(self, home: Path, processes: Processes) -> None:
        code = (
            "import signal\nfrom pathlib import Path\nfrom coordination.stack.home import Home\n"
            "from coordination.stack.users import StackUsers\n"
            f"kept = StackUsers(Home(Path({str(home)!r}))).join('coord run other')\n"
            "print('in', flush=True)\nsignal.pause()"
        )
        joined = join(home)
        other = processes.start_python("-c", code)
        other.wait_for("in")
        assert [user.command for user in joined.membership.others()] == ["coord run other"]
        joined.leave()
        assert Home(home).is_owned()

        other.kill()

        until(lambda: not Home(home).is_owned(), what="the stack's end")

    def test_a_user_is_seen_with_its_run_until_it_leaves(self, home: Path) -> None:
        home_ = Home(home).prepare()
        member = StackUsers(home_).join("coord run")
        member.note_run("the-run")

        assert [(user.pid, user.run) for user in StackUsers(home_).present()] == [(os.getpid(), "the-run")]
        member.leave()
        member.leave()
        assert StackUsers(home_).present() == []

    def test_nobody_is_left_only_when_the_last_user_has_gone(self, home: Path) -> None:
        users = StackUsers(Home(home).prepare())
        members = [users.join("coord run"), users.join("coord up")]
        decided: list[bool] = []

        for member in members:
            assert not users.is_unused(lambda: decided.append(True))
            member.leave()

        assert decided == []
        assert users.is_unused(lambda: decided.append(True))
        assert decided == [True]

    def test_a_stack_that_cannot_count_its_users_does_not_end_their_jobs(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        users = StackUsers(Home(home).prepare())

        def full(*_: object, **__: object) -> int:
            raise OSError(errno.ENFILE, "Too many open files in system")

        with monkeypatch.context() as patched:
            patched.setattr("coordination.stack.users.os.open", full)
            assert not users.is_unused(lambda: None)
        assert users.is_unused(lambda: None)

    def test_a_stack_is_stopped_also_where_its_users_cannot_be_named(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        joined = join(home)
        monkeypatch.setattr("coordination.stack.users._PATIENCE", 0.0)
        with (home / "users.lock").open() as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)  # as a command that was suspended while it joined

            StopMessages(settings_in(home), now=False).print_users(Home(home))

        assert joined.problem() is None

    def test_a_file_of_a_user_that_cannot_be_read_still_counts(self, home: Path) -> None:
        home_ = Home(home).prepare()
        member = StackUsers(home_).join("coord run")
        for path in (home / "users").iterdir():
            path.write_text("{")

        assert [user.pid for user in StackUsers(home_).present()] == [os.getpid()]
        member.leave()

    @pytest.mark.full
    def test_a_worker_that_does_not_obey_is_killed_without_the_grace(self, home: Path) -> None:
        joined = join(home, "stubborn")
        worker = joined.record.services["worker"]

        assert running.down(home, now=True)

        assert not worker.alive()


@pytest.mark.parametrize("error", [StackRunning("It runs", hint="Use it"), RedisUnavailable("None", hint="Install")])
def test_an_error_is_told_across_processes(error: Unavailable) -> None:
    result = joining.restore_error(joining.encode_error(error))

    assert type(result) is type(error)
    assert result is not None
    assert result.sentence() == error.sentence()
    assert joining.restore_error(b"garbage") is None
