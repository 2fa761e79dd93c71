"""Test that every mutant in tests/mutants describes its bug, names existing tests, and still applies to the source."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.mutants import FOLDER, read
from tests.support.sources import ROOT

PATCHES = sorted(FOLDER.glob("*.patch"))
MOST_TESTS = 3


def test_there_are_mutants() -> None:
    assert PATCHES


def test_every_mutant_says_what_it_breaks_and_who_notices() -> None:
    wrong = [
        mutant.name
        for mutant in map(read, PATCHES)
        if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", mutant.name)
        or not (mutant.change.endswith(".") and mutant.danger.endswith("."))
        or not 1 <= len(mutant.tests) <= MOST_TESTS
        or not mutant.files
        or not all(name.startswith(("coordination/", "workers/")) for name in mutant.files)
    ]

    assert not wrong, f"a name of words, sentences, 1 to {MOST_TESTS} tests, and changes of the source: {wrong}"


def test_the_tests_that_mutants_name_exist() -> None:
    missing = {(mutant.name, test) for mutant in map(read, PATCHES) for test in mutant.tests if not _exists(test)}

    assert not missing


def _exists(test: str) -> bool:
    """Return whether the file of a test's id defines its classes and functions; a whole file is no test."""
    path, *names = test.partition("[")[0].split("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    return bool(names) and all(re.search(rf"(?m)^\s*(?:async )?(?:def|class) {name}\b", text) for name in names)


def test_all_mutants_apply_to_the_source() -> None:
    refused = {}
    for patch in PATCHES:
        done = subprocess.run(
            ["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            refused[patch.stem] = done.stderr.strip()

    assert not refused


@pytest.mark.parametrize(
    "text",
    [
        "# Change: a.\n# Danger: b.\n--- a/x\n",
        "# Danger: b.\n# Tests: t\n",
        "# Change: a.\n# Danger: b.\n# Tests: t\n# Extra: c\n",
        "--- a/x\n+++ b/x\n",
    ],
)
def test_a_patch_without_its_three_headers_is_refused(tmp_path: Path, text: str) -> None:
    patch = tmp_path / "money-x.patch"
    patch.write_text(text)

    with pytest.raises(ValueError, match="not Change, Danger and Tests"):
        read(patch)
