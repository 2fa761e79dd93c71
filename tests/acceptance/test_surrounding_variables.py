"""Test that variables which are exported for another Celery program change nothing in ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordination.base import inherited_variables
from tests.support.sources import ROOT

NOWHERE = "redis://127.0.0.1:1/0"
OTHERS = {
    "APP": "shop",
    "BROKER_URL": NOWHERE,
    "RESULT_BACKEND": NOWHERE,
    "LOADER": "shop.loaders:Loader",
    "CONFIG_MODULE": "shop.celeryconfig",
    "DJANGO_SETTINGS_MODULE": "shop.settings",
    "CELERY_APP": "shop",
    "CELERY_LOADER": "shop.loaders:Loader",
    "CELERY_CONFIG_MODULE": "shop.celeryconfig",
    "CELERY_BROKER_URL": NOWHERE,
    "CELERY_BROKER_READ_URL": NOWHERE,
    "CELERY_BROKER_WRITE_URL": NOWHERE,
    "CELERY_RESULT_BACKEND": NOWHERE,
    "CELERY_CUSTOM_WORKER_POOL": "shop.pools:Pool",
    "CELERY_WORKER_CONCURRENCY": "many",
    "CELERY_BEAT_SCHEDULE": "/nowhere/at/all",
    "C_BENCH_EVERY": "often",
    "AUTOSCALE_KEEPALIVE": "long",
}
LOOK = """
import json, sys
from workers.app import app
with app.connection_for_write() as writing, app.connection_for_read() as reading:
    brokers = [f"{one.hostname}:{one.port}/{one.virtual_host}" for one in (writing, reading)]
    print(json.dumps([*brokers, app.main, str(app.conf.result_backend), type(app.loader).__name__]))
"""


def _python(*arguments: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "COORD_HOME": str(home / "coord"), **OTHERS, **more}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_app_talks_to_its_own_broker_alone(tmp_path: Path) -> None:
    done = _python("-c", LOOK, home=tmp_path, COORD_REDIS_URL="redis://127.0.0.1:2/3")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '["127.0.0.1:2/3", "127.0.0.1:2/3", "coordination", "None", "AppLoader"]'


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_variable_of_others_is_known_as_such(name: str) -> None:
    assert inherited_variables.is_read_by_celery(name)


@pytest.mark.parametrize("name", ["PATH", "COORD_REDIS_URL", "APP_KEY", "APPDATA", "FLOWER_BASIC_AUTH", "LANG"])
def test_other_variables_stay(name: str) -> None:
    assert not inherited_variables.is_read_by_celery(name)


@pytest.mark.smoke
def test_a_plan_runs_and_its_jobs_may_be_given_such_a_variable_by_name(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        """
version: 1
tasks:
  - {key: called, run: {python: "os:getpid"}}
  - key: given
    run: {agent: custom, prompt: x, command: [sh, -c, 'printf %s "$BROKER_URL" | wc -c'], secrets: [BROKER_URL]}
"""
    )

    done = _python("-m", "coordination.cli", "run", str(plan), home=tmp_path)
    result = _python("-m", "coordination.cli", "tasks", "output", "given", home=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert result.stdout.strip() == str(len(NOWHERE))


def test_beats_command_listens_to_nobody_else(tmp_path: Path) -> None:
    """Check Celery's own command line, which reads variables before it imports our modules."""
    done = _python(
        "-m", "coordination.cli", "beat", "--", "--help", home=tmp_path, COORD_REDIS_URL="redis://127.0.0.1:2/3"
    )

    assert done.returncode == 0, done.stderr
    assert "--schedule" in done.stdout
