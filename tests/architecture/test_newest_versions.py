"""Test that the report on the newest versions lists differences to the lock and failing tests, within its time."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest
from packaging.version import Version

from tests.newest_versions import TestResults as Results
from tests.newest_versions import differences, run_tests, summary

MINUTE = timedelta(minutes=1)


def pytest_on(test_file: Path) -> list[str]:
    """Return a pytest command that uses nothing of this repository's configuration."""
    isolated = [
        "--disable-plugin-autoload",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        f"--rootdir={test_file.parent}",
    ]
    return [sys.executable, "-m", "pytest", "-q", *isolated, str(test_file)]


def test_differences_say_what_is_newer_older_added_and_gone() -> None:
    locked = {name: Version("1.9") for name in ("equal", "newer", "older", "gone")}
    installed = {"equal": Version("1.9.0"), "newer": Version("1.10"), "older": Version("1.8"), "added": Version("3")}

    lines = differences(locked, installed)

    assert lines == [
        "newer than the lock (1): newer 1.9 -> 1.10",
        "older than the lock (1): older 1.9 -> 1.8",
        "not in the lock (1): added 3",
        "only in the lock (1): gone 1.9",
    ]


def test_equal_environments_have_no_differences() -> None:
    assert differences({"one": Version("1.0")}, {"one": Version("1")}) == []


def test_a_run_counts_what_passed_and_names_what_failed(tmp_path: Path) -> None:
    test_file = tmp_path / "test_sample.py"
    test_file.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): raise ValueError('reason')\n"
        "@pytest.mark.skip\ndef test_left_out(): pass\n"
        "@pytest.fixture\ndef broken(): raise OSError('fixture')\n"
        "def test_without_its_fixture(broken): pass\n"
    )

    results = run_tests(pytest_on(test_file), tmp_path, tmp_path / "log", limit=MINUTE)

    assert (results.passed, results.problem) == (1, None)
    assert [failure.partition(": ")[0] for failure in results.failures] == [
        "test_sample::test_bad",
        "test_sample::test_without_its_fixture",
    ]
    assert "ValueError: reason" in results.failures[0]
    assert summary(results)[0] == "failed: 2, passed: 1"


@pytest.mark.full
def test_a_run_that_takes_too_long_is_stopped_and_reports_what_it_has(tmp_path: Path) -> None:
    test_file = tmp_path / "test_sample.py"
    cleaned = tmp_path / "cleaned"
    test_file.write_text(
        "import pathlib, pytest, threading\n"
        "def test_good(): pass\n"
        f"@pytest.fixture\ndef server():\n    yield\n    pathlib.Path({str(cleaned)!r}).touch()\n"
        "def test_endless(server): threading.Event().wait()\n"
    )

    results = run_tests(pytest_on(test_file), tmp_path, tmp_path / "log", limit=timedelta(seconds=6))

    assert (results.failures, results.problem) == ((), "stopped after 0.1 minutes")
    assert results.passed > 0
    assert cleaned.exists()


def test_a_run_that_breaks_off_does_not_count_as_complete(tmp_path: Path) -> None:
    test_file = tmp_path / "test_sample.py"
    test_file.write_text("import pytest\ndef test_good(): pass\ndef test_exit(): pytest.exit('no more')\n")

    results = run_tests(pytest_on(test_file), tmp_path, tmp_path / "log", limit=MINUTE)

    assert results.problem == "pytest ended with 2 before its last test"


def test_a_run_that_cannot_start_says_why(tmp_path: Path) -> None:
    results = run_tests(
        [sys.executable, "-m", "no_such_pytest"], tmp_path, tmp_path / "log", limit=timedelta(minutes=1)
    )

    assert results.problem is not None
    assert "No module named no_such_pytest" in results.problem
    assert summary(results) == [results.problem, "no test ran"]


def test_a_summary_never_claims_more_than_was_tested() -> None:
    assert summary(Results(7, ())) == ["all 7 tests passed"]
    assert summary(Results(7, (), "stopped after 8 minutes")) == [
        "stopped after 8 minutes",
        "no failure until then: 7 tests passed",
    ]
    assert summary(Results(0, ())) == ["no test ran"]
    assert summary(Results(7, tuple(f"t{number}" for number in range(42))))[-1] == "failed: 2 more"
