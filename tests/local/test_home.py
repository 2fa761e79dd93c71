"""Test the home folder: its owner, possible errors, and the files that are written into it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordination.base.errors import SettingsError, StackRunning
from coordination.stack.home import Home, RunningStack
from coordination.stack.processes import ServiceRecord
from tests.support.refusals import refuses
from tests.support.services import missing


def record() -> RunningStack:
    me = ServiceRecord.of(os.getpid())
    return RunningStack(
        me, datetime(2026, 3, 1, 12, tzinfo=UTC), "1.2", "unix://:p@/x?db=0", "sqlite:////y", {"worker": me}, ready=True
    )


class TestPrepared:
    def test_it_is_made_for_its_user_alone(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "a" / "b").prepare()

        assert home.folder.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in home.folder.iterdir()] in (["logs", "redis"], ["redis", "logs"])

    @pytest.mark.parametrize("mode", [0o755, 0o750, 0o770, 0o777, 0o711])
    def test_one_that_was_there_before_is_closed_to_others(self, tmp_path: Path, mode: int) -> None:
        folder = tmp_path / "home"
        for open_to_others in (folder, folder / "logs", folder / "redis"):
            open_to_others.mkdir()
            open_to_others.chmod(mode)

        home = Home(folder).prepare()

        assert [path.stat().st_mode & 0o777 for path in (home.folder, home.logs, home.redis)] == [0o700] * 3

    def test_a_folder_that_all_users_share_is_refused_and_stays_as_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "home"
        folder.mkdir()
        folder.chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))

        with refuses(SettingsError, field="COORD_HOME"):
            Home(folder).prepare()

        assert folder.stat().st_mode & 0o7777 == 0o1777
        assert not list(folder.iterdir())

    def test_a_file_above_it_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        with refuses(SettingsError, field="COORD_HOME"):
            Home(tmp_path / "file" / "home").prepare()

    def test_a_file_in_place_of_a_folder_inside_it_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "logs").touch()

        with refuses(SettingsError, field="COORD_HOME"):
            Home(tmp_path).prepare()

    def test_a_place_where_nobody_can_write(self) -> None:
        # /proc takes no folders, not even from root.
        with refuses(SettingsError, field="COORD_HOME", varies=r"be (used|written to) \([^)]*\)"):
            Home(Path("/proc/coordination")).prepare()

    @pytest.mark.parametrize(
        ("mount", "expected"),
        [
            ("mount -t tmpfs -o ro tmpfs", "cannot be written to (read-only file system)"),
            ("mount -t tmpfs -o nr_inodes=100,size=4k tmpfs", "The disk is full"),
        ],
    )
    def test_a_file_system_that_takes_nothing(self, tmp_path: Path, mount: str, expected: str) -> None:
        # In namespaces of its own, so that the mount needs no rights and is gone with the process.
        code = textwrap.dedent("""
            import pathlib, sys
            from coordination.base.errors import CoordinationError
            from coordination.stack.home import Home
            folder = pathlib.Path(sys.argv[1])
            try:
                (folder / "filler").write_bytes(b"x" * 4096)
            except OSError:
                pass
            try:
                Home(folder).prepare()
            except CoordinationError as error:
                print(error.sentence())
        """)
        command = f'{mount} "$1" && exec "$2" -c "$3" "$1"'

        done = subprocess.run(
            ["unshare", "-r", "-m", "sh", "-c", command, "sh", str(tmp_path), sys.executable, code],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )

        if "unshare" in done.stderr or "mount" in done.stderr:
            missing("mount namespace", done.stderr.strip())
        assert expected in done.stdout, done.stderr


class TestLock:
    def test_one_at_a_time(self, tmp_path: Path) -> None:
        home = Home(tmp_path)
        lock = home.acquire()

        with refuses(StackRunning):
            home.acquire()

        os.close(lock)

    def test_it_is_free_once_it_is_closed(self, tmp_path: Path) -> None:
        home = Home(tmp_path)
        lock = home.acquire()
        assert home.is_owned()

        os.close(lock)

        assert not home.is_owned()
        os.close(home.acquire())

    def test_looking_creates_nothing(self, tmp_path: Path) -> None:
        assert not Home(tmp_path / "none").is_owned()
        assert list(tmp_path.iterdir()) == []


class TestRecord:
    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        home = Home(tmp_path)

        home.write(record())

        assert home.read() == record()

    def test_nobody_else_may_read_the_passwords_in_it(self, tmp_path: Path) -> None:
        home = Home(tmp_path)

        home.write(record())

        assert home.record.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [home.record]

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1}', "\xff"])
    def test_what_cannot_be_read_is_no_record(self, tmp_path: Path, content: str) -> None:
        home = Home(tmp_path)
        home.record.write_bytes(content.encode("latin-1"))

        assert home.read() is None

    def test_one_that_cannot_be_written_is_one_sentence(self, tmp_path: Path) -> None:
        with refuses(SettingsError, field="COORD_HOME"):
            Home(tmp_path / "gone").write(record())
