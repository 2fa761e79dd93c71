"""Test Flower and Celery's own commands: a password to log in, loopback only, and no password in their output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from coordination.base.errors import SettingsError
from tests.support.refusals import refuses
from workers.broker.remote_control import guard

STARTED = ["celery", "-A", "workers.app", "flower"]


class TestGuard:
    @pytest.mark.parametrize("more", [[], ["--port=5555"], ["--address=0.0.0.0"]])
    def test_flower_without_a_password_is_refused(
        self, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        with refuses(SettingsError, field="FLOWER_BASIC_AUTH"):
            guard([*STARTED, *more], {})

    @pytest.mark.parametrize(
        ("more", "environ"),
        [
            ([], {"FLOWER_BASIC_AUTH": "ada:pw"}),
            (["--basic-auth=ada:pw"], {}),
            (["--basic_auth=ada:pw"], {}),
            (["--auth=.*@example[.]org"], {}),
            (["--conf=flower.py"], {}),
        ],
    )
    def test_with_one_it_listens_on_loopback(self, more: list[str], environ: dict[str, str]) -> None:
        guard([*STARTED, *more], environ)

        assert environ["FLOWER_ADDRESS"] == "127.0.0.1"

    def test_an_address_that_was_chosen_stays(self) -> None:
        environ = {"FLOWER_ADDRESS": "10.0.0.1", "FLOWER_BASIC_AUTH": "ada:pw"}

        guard(STARTED, environ)

        assert environ["FLOWER_ADDRESS"] == "10.0.0.1"

    def test_other_commands_are_not_touched(self) -> None:
        environ: dict[str, str] = {}

        guard(["celery", "-A", "workers.app", "worker"], environ)

        assert environ == {}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COORD_HOME": str(tmp_path / "home")}
    try:
        _python(variables, "-m", "coordination.cli", "up", "-d")
        yield variables
    finally:
        _python(variables, "-m", "coordination.cli", "down")


def _python(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env=environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
def test_what_workers_say_of_themselves_holds_no_password(environment: dict[str, str]) -> None:
    url = json.loads((Path(environment["COORD_HOME"]) / "stack.json").read_text())["redis_url"]
    password = urlsplit(url).password
    assert password

    for commands in ("stats", "conf", "report"):
        output = _python(environment, "-m", "celery", "-A", "workers.app", "inspect", commands, "--timeout", "5")

        assert "coord-" in output
        assert password not in output, commands
