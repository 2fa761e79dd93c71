"""``python -m tests.newest_versions``: tests the newest versions that pyproject.toml allows, and only reports.

It resolves without the locks, in an environment of its own, and prints what differs from them and which tests fail.
It ends with 0 whatever the result: a release of somebody else is no reason to refuse a change.
"""

# ruff: noqa: T201 - it prints

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

from packaging.markers import default_environment
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.locks import lock_lines, lock_text, locked_versions
from tests.support.sources import ROOT, pyproject

QUICK_TESTS = ("--dist", "worksteal", "-m", "not full", "-q")
_PACKAGES_OF_AN_ENVIRONMENT = {"pip", "setuptools", "wheel", "coordination"}
_INSTALLATION_LIMIT = timedelta(minutes=10)
_TIME_TO_STOP = 60.0
_COMPLETE = {0, 1}  # pytest's exit codes after its last test: all passed, some failed
_MOST_FAILURES = 40


@dataclass(frozen=True, slots=True)
class TestResults:
    """The results of a run of pytest: the number of tests that passed, and the failures with their reasons."""

    passed: int  # of a run that was stopped, the tests that were running count, too
    failures: tuple[str, ...]
    problem: str | None = None  # why the run is not complete


def main(argv: Sequence[str]) -> int:
    """Install, compare, test and report; always return 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.newest_versions", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="limit for the tests")
    parser.add_argument("--processes", default="2", help="test processes")
    parser.add_argument("--log", type=Path, help="where pytest's whole output goes")
    parser.add_argument("tests", nargs="*", help="these instead of the quick tier")
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory(prefix="coord-newest-") as temporary:
        folder = Path(temporary)
        python = folder / "env" / "bin" / "python"
        problem = install(python)
        if problem is not None:
            report(f"they cannot be installed: {problem}")
            return 0
        locked = locked_versions(lock_lines(lock_text("development")), cast("dict[str, str]", default_environment()))
        for line in differences(locked, installed_versions(python)) or ["none differs from the lock"]:
            report(line)
        selection = options.tests or QUICK_TESTS
        command = [str(python), "-m", "pytest", "-n", options.processes, "-p", "no:cacheprovider", *selection]
        log = options.log or folder / "pytest.log"
        for line in summary(run_tests(command, folder, log, limit=timedelta(minutes=options.minutes))):
            report(line)
    return 0


def report(line: str) -> None:
    """Print one line that is in the summary of a CI run, too."""
    print(f"REPORT newest versions: {line}", flush=True)


def install(python: Path) -> str | None:
    """Create the environment and install the project with its tools; return the reason of a failure."""
    requirements = python.parents[2] / "requirements.txt"
    requirements.write_text("\n".join(pyproject()["dependency-groups"]["dev"]), encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--editable", str(ROOT), "--requirement", str(requirements)]
    for command in ([sys.executable, "-m", "venv", str(python.parents[1])], pip):
        try:
            subprocess.run(
                command,
                cwd=ROOT,
                check=True,
                timeout=_INSTALLATION_LIMIT.total_seconds(),
                capture_output=True,
                text=True,
            )
        except subprocess.TimeoutExpired:
            return f"that takes more than {_INSTALLATION_LIMIT.total_seconds() / 60:g} minutes"
        except subprocess.CalledProcessError as error:
            lines = [line for line in f"{error.stdout}\n{error.stderr}".splitlines() if line.strip()]
            return next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else str(error))
    return None


def installed_versions(python: Path) -> dict[str, Version]:
    """Return the version of each package in an environment, without what every environment has."""
    listing = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    versions = {canonicalize_name(row["name"]): Version(row["version"]) for row in json.loads(listing.stdout)}
    return {name: version for name, version in versions.items() if name not in _PACKAGES_OF_AN_ENVIRONMENT}


def differences(locked: Mapping[str, Version], installed: Mapping[str, Version]) -> list[str]:
    """Return one line for each difference between an environment and the lock."""
    shared = sorted(locked.keys() & installed.keys())
    changes = {
        "newer than the lock": [
            f"{name} {locked[name]} -> {installed[name]}" for name in shared if installed[name] > locked[name]
        ],
        "older than the lock": [
            f"{name} {locked[name]} -> {installed[name]}" for name in shared if installed[name] < locked[name]
        ],
        "not in the lock": [f"{name} {installed[name]}" for name in sorted(installed.keys() - locked.keys())],
        "only in the lock": [f"{name} {locked[name]}" for name in sorted(locked.keys() - installed.keys())],
    }
    return [f"{how} ({len(packages)}): {', '.join(packages)}" for how, packages in changes.items() if packages]


def run_tests(command: Sequence[str], folder: Path, log: Path, *, limit: timedelta) -> TestResults:
    """Run pytest for at most *limit* and read its results, also those from before the limit."""
    junit = folder / "results.xml"
    problem = None
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--junitxml={junit}"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(limit.total_seconds())
        except subprocess.TimeoutExpired:
            problem = f"stopped after {limit.total_seconds() / 60:g} minutes"
            # An interrupted pytest ends its fixtures and writes the results that it has.
            process.send_signal(signal.SIGINT)
        finally:
            end(process)
    if not junit.exists():
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        return TestResults(0, (), problem or f"pytest ended with {process.returncode} and no results: {' '.join(last)}")
    if problem is None and process.returncode not in _COMPLETE:
        problem = f"pytest ended with {process.returncode} before its last test"
    results = read_results(junit)
    return TestResults(results.passed, results.failures, problem)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process ends, and kill its group when it does not."""
    try:
        process.wait(_TIME_TO_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_results(junit: Path) -> TestResults:
    """Read the file that pytest writes for machines."""
    passed, failures = 0, []
    for case in ET.parse(junit).getroot().iter("testcase"):  # noqa: S314 - our own pytest wrote it
        broken = next((child for child in case if child.tag in {"failure", "error"}), None)
        if broken is not None:
            reason = (broken.get("message") or "").strip().partition("\n")[0]
            failures.append(f"{case.get('classname')}::{case.get('name')}: {reason[:200]}")
        elif case.find("skipped") is None:
            passed += 1
    return TestResults(passed, tuple(failures))


def summary(results: TestResults) -> list[str]:
    """Return the lines of the tests' results."""
    lines = [] if results.problem is None else [results.problem]
    if not results.passed and not results.failures:
        return [*lines, "no test ran"]
    if not results.failures:
        return [
            *lines,
            f"{'all' if results.problem is None else 'no failure until then:'} {results.passed} tests passed",
        ]
    lines.append(f"failed: {len(results.failures)}, passed: {results.passed}")
    lines += [f"failed: {failure}" for failure in results.failures[:_MOST_FAILURES]]
    if len(results.failures) > _MOST_FAILURES:
        lines.append(f"failed: {len(results.failures) - _MOST_FAILURES} more")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
