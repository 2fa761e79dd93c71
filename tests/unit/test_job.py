"""Test the module that a job imports to report."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.job import context, record_usage
from workers.runners import usage_file

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "exact"),
    [("0.00047", "0.00047"), (0.1, "0.1"), (Decimal("1E-7"), "0.0000001"), (2, "2"), (None, None)],
)
def test_an_amount_arrives_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, exact: str) -> None:
    monkeypatch.setenv("COORD_COSTS", str(tmp_path / "costs"))

    record_usage(model="m", input_tokens=3, output_tokens=2, cost_usd=given)

    (usage,), warnings = usage_file.read_usage(str(tmp_path / "costs"))
    assert warnings == ()
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (3, 2, 5)
    assert usage.cost_usd == (None if exact is None else Decimal(exact))
    assert usage.at is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""},
        {"input_tokens": -1},
        {"output_tokens": 1.5},
        {"cost_usd": "much"},
        {"cost_usd": float("nan")},
        {"cost_usd": -1},
    ],
)
def test_what_cannot_be_true_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        record_usage(**({"model": "m"} | wrong))


def test_lines_of_many_threads_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORD_COSTS", str(tmp_path / "costs"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: record_usage(model="m" * 150), range(200)))

    usage, warnings = usage_file.read_usage(str(tmp_path / "costs"))
    assert (len(usage), warnings) == (200, ())


def test_outside_a_job_there_is_no_context_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in context():
        monkeypatch.delenv(name)

    record_usage(model="m")

    assert context() == {}


def test_importing_it_costs_a_job_nothing_heavy() -> None:
    program = "import sys, coordination.job; print(*sorted({name.split('.')[0] for name in sys.modules}))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()

    assert not set(loaded) & {"sqlalchemy", "pydantic", "celery", "redis", "typer", "rich"}
