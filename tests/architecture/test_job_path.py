"""Test how many of our files one shell job enters, from its submission to its cost."""

from __future__ import annotations

from pathlib import Path

from tests.support.job_path import files_of_path

MOST_FILES = 92  # some depend on the machine: a coord on the PATH, for example


def test_a_shell_job_enters_few_files_from_its_submission_to_its_cost(tmp_path: Path) -> None:
    stages = files_of_path(tmp_path)

    entered = frozenset().union(*stages.values())

    assert list(stages) == ["submit", "claim, run and finish", "cost"]
    assert all(stages.values())
    assert any(file.endswith("runners/shell.py") for file in entered)
    assert len(entered) <= MOST_FILES, f"{len(entered)} files; python -m tests.support.job_path lists them"
