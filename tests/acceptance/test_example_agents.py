"""Test the examples with agents as a reader runs them: a script stands in for every agent, and no key is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sources import ROOT

pytestmark = pytest.mark.full


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Provide an environment without our variables, and a home folder for this test only."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COORD_")}
    return {**kept, "COORD_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


def crew(example: str, tmp_path: Path, environment: dict[str, str]) -> str:
    """Return the output of the example; its copy is in ``till``."""
    command = [sys.executable, str(ROOT / "examples" / "crew.py"), example, "--folder", str(tmp_path / "till")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown(tmp_path: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=tmp_path / "till", capture_output=True, text=True, check=True
    ).stdout.strip()


def branch(tmp_path: Path) -> str:
    (result,) = shown(tmp_path, "for-each-ref", "--format=%(refname:short)", "refs/heads/coord/**/run").split()
    return result


def test_the_tests_are_fixed_merged_and_pass_together(tmp_path: Path, environment: dict[str, str]) -> None:
    printed = crew("fix-the-tests", tmp_path, environment)

    assert "gate 'python3 -m unittest -q tests.test_basket' failed" in printed, "its first try is not enough"
    subjects = shown(tmp_path, "log", "--first-parent", "--format=%s", branch(tmp_path)).splitlines()
    assert sorted(subjects) == ["A till", "Fix the basket", "Fix the prices", "Fix the receipt"]
    shown(tmp_path, "merge", "-q", branch(tmp_path))
    tested = subprocess.run([sys.executable, "-m", "unittest"], cwd=tmp_path / "till", capture_output=True, check=False)
    assert tested.returncode == 0, tested.stderr.decode()


def test_the_review_is_one_report_that_is_kept(tmp_path: Path, environment: dict[str, str]) -> None:
    crew("review-crew", tmp_path, environment)

    coord = [sys.executable, "-m", "coordination.cli", "tasks", "artifacts", "report"]
    finished = subprocess.run(
        [*coord, "--json"], cwd=tmp_path / "till", env=environment, capture_output=True, check=True
    )
    (artifact,) = json.loads(finished.stdout)["artifacts"]
    assert artifact["path"] == "review.md"
    subprocess.run([*coord, "--get", str(tmp_path / "got")], cwd=tmp_path / "till", env=environment, check=True)
    report = (tmp_path / "got" / "review.md").read_text()
    assert "till/prices.py:7: 3.5 is read as 3.05" in report
    assert "a script stands in" in report.lower()


def test_a_specification_becomes_code_in_parts_that_are_judged(tmp_path: Path, environment: dict[str, str]) -> None:
    printed = crew("spec-to-code", tmp_path, environment)

    assert "vouchers/work  blocked" in printed
    assert "it works" in printed
    assert "Voucher" in shown(tmp_path, "show", f"{branch(tmp_path)}:till/vouchers.py")
