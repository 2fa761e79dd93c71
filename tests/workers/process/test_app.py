"""Test the Celery app: the import creates none and reads nothing; ``app`` is created once, from the settings."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from celery import current_app
from celery.app.utils import find_app

import workers.app as app_module
from coordination.base.errors import SettingsError
from coordination.settings import Settings, broker_url, load_settings
from coordination.stack.home import Home, RunningStack
from coordination.stack.processes import ServiceRecord
from tests.support.apps import app_of, app_state_kept, worker_settings
from tests.support.sources import ROOT, python_files
from workers.__main__ import main
from workers.app import make_app, redis_url_of
from workers.process import lifecycle
from workers.process.log_format import configure_logging
from workers.shutdown import Shutdown


@pytest.fixture
def no_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Provide a module whose app does not exist yet, in an environment with a home folder and without Redis."""
    monkeypatch.setenv("COORD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COORD_REDIS_URL", raising=False)
    earlier = vars(app_module).pop("app", None)
    with app_state_kept():
        yield monkeypatch
    vars(app_module).pop("app", None)
    if earlier is not None:
        vars(app_module)["app"] = earlier


class TestImporting:
    def test_no_module_reads_a_setting_or_opens_anything(self, tmp_path: Path) -> None:
        garbage = {f"COORD_{field.name.upper()}": "garbage" for field in fields(Settings)}

        imported = subprocess.run(
            [sys.executable, "-m", "tests.support.import_workers"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **garbage},
            capture_output=True,
            text=True,
            check=False,
        )

        assert imported.returncode == 0, imported.stderr
        assert imported.stdout == f"{len(python_files('workers')) - 1} modules\n"
        assert list(tmp_path.iterdir()) == []

    def test_the_module_has_nothing_else_that_is_made_late(self) -> None:
        with pytest.raises(AttributeError, match=r"module 'workers\.app' has no attribute 'celery'"):
            _ = app_module.celery


class TestAppOfTheModule:
    def test_celery_finds_it_by_the_name_of_the_module(self, no_app: pytest.MonkeyPatch, redis_url: str) -> None:
        no_app.setenv("COORD_REDIS_URL", redis_url)

        app = find_app("workers.app")

        assert app is app_module.app
        assert app is find_app("workers.app:app")
        assert app.conf.broker_url == broker_url(redis_url)

    def test_threads_that_ask_for_it_at_once_get_the_same_one(self, no_app: pytest.MonkeyPatch, redis_url: str) -> None:
        no_app.setenv("COORD_REDIS_URL", redis_url)
        calls: list[Settings] = []
        second_call = threading.Event()

        def slow(settings: Settings) -> object:
            calls.append(settings)
            if len(calls) == 2:
                second_call.set()
            second_call.wait(0.5)  # another thread would enter here, if it could
            return make_app(settings)

        no_app.setattr(app_module, "make_app", slow)
        apps: list[object] = []
        threads = [threading.Thread(target=lambda: apps.append(app_module.app)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(calls) == 1
        assert len(apps) == 4
        assert set(map(id, apps)) == {id(app_module.app)}

    def test_without_a_redis_a_sentence_says_what_to_set_and_the_next_use_tries_again(
        self, no_app: pytest.MonkeyPatch, redis_url: str, tmp_path: Path
    ) -> None:
        before = current_app._get_current_object()
        with pytest.raises(SettingsError) as refused:
            _ = app_module.app

        assert refused.value.sentence() == (
            "There is no Redis to listen to. "
            f"Set COORD_REDIS_URL, or start the embedded stack on {tmp_path / 'home'} with: coord up."
        )
        assert current_app._get_current_object() is before

        no_app.setenv("COORD_REDIS_URL", redis_url)

        assert app_module.app.conf.broker_url == broker_url(redis_url)

    @pytest.mark.usefixtures("no_app")
    def test_a_worker_without_a_redis_ends_with_that_sentence(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2

        assert capsys.readouterr().err.startswith("coord worker: There is no Redis to listen to. Set COORD_REDIS_URL")


class TestMakingApps:
    def test_each_app_has_the_settings_that_it_was_made_from(self, redis_url: str, tmp_path: Path) -> None:
        many = worker_settings("", redis_url, tmp_path, COORD_SLOTS="64")
        few = worker_settings("", "redis://elsewhere:1/2", tmp_path, COORD_SLOTS="2")

        with app_of(many) as one, app_of(few) as another:
            assert current_app._get_current_object() is another
            assert (one.conf.broker_url, one.conf.worker_concurrency) == (broker_url(redis_url), 64)
            assert (another.conf.broker_url, another.conf.worker_concurrency) == ("redis://elsewhere:1/2", 2)

    def test_a_worker_of_the_app_drains_when_it_is_told_to_end(self, redis_url: str, tmp_path: Path) -> None:
        with app_of(worker_settings("", redis_url, tmp_path)) as app:
            assert Shutdown in app.steps["worker"]

    def test_without_a_redis_the_embedded_stack_of_the_home_folder_has_one(self, tmp_path: Path) -> None:
        settings = load_settings({"COORD_HOME": str(tmp_path), "HOME": str(tmp_path)})
        home, me = Home(settings.home).prepare(), ServiceRecord.of(os.getpid())
        lock = home.acquire()
        home.write(RunningStack(me, datetime.now(UTC), "1", "unix:///stack/redis.sock?db=0", "sqlite:////x", {}))

        with app_of(settings) as app:
            broker = app.conf.broker_url

        assert broker == broker_url("unix:///stack/redis.sock?db=0")
        os.close(lock)
        with pytest.raises(SettingsError):  # the record of a killed stack does not count as a stack
            redis_url_of(settings)


def test_what_a_worker_logs_of_a_job_is_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    configure_logging()
    try:
        structlog.get_logger("printable").warning(
            "a job failed", error="\x1b]0;TITLE\x07boom \u202etxt\x9b1m", number=3
        )
    finally:
        structlog.configure(**before)

    captured = capsys.readouterr().err
    assert "boom \ufffdtxt" in captured
    assert [letter for letter in captured if not letter.isprintable() and letter != "\n"] == []


def test_that_a_worker_is_ready_is_said_once_whatever_has_the_number_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Announce readiness once: Celery is ready again each time that it has found its broker again."""
    reading, writing = os.pipe()
    monkeypatch.setenv("COORD_READY_FD", str(writing))

    lifecycle._on_ready()
    output = os.read(reading, 100)
    another = os.open(tmp_path / "another", os.O_RDWR | os.O_CREAT)
    os.dup2(another, writing)
    lifecycle._on_ready()

    assert output == b"ready\n"
    os.write(writing, b"still open")
    assert (tmp_path / "another").read_bytes() == b"still open"
    for descriptor in {reading, writing, another}:
        os.close(descriptor)
