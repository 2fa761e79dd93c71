"""Test which runner executes which job kind, and what the process shares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from coordination.base.errors import Refused
from coordination.domain.jobs import PythonCall, Shell
from tests.support.jobs import claim_of
from tests.support.refusals import refuses
from workers.runners.python_callable import PythonRunner
from workers.runners.registry import Runners
from workers.runners.shell import ShellRunner

ROOT = Path(__file__).parents[3]


def test_each_kind_of_job_has_its_runner() -> None:
    runners = Runners()
    assert isinstance(runners.by_kind[Shell], ShellRunner)
    assert isinstance(runners.by_kind[PythonCall], PythonRunner)
    runners.close()


def test_a_kind_that_nobody_can_run_is_refused_in_words() -> None:
    with refuses(Refused):
        _ = claim_of({"song": "la"}).job_kind


def test_runners_load_neither_the_store_nor_celery() -> None:
    program = "import sys, workers.runners.registry; print(*sorted({name.split('.')[0] for name in sys.modules}))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()

    assert not set(loaded) & {"celery", "kombu", "sqlalchemy", "redis", "pydantic", "pydantic_ai", "mcp", "httpx2"}
