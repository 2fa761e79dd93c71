"""Test that imports only go down, and that beat_schedule.py, which the contracts cannot see, contains only data."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.support.sources import ROOT, tree_of


def test_every_import_contract_is_kept() -> None:
    check = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]

    result = subprocess.run(
        [*check, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


def test_the_beat_schedule_imports_nothing_but_time() -> None:
    nodes = list(ast.walk(tree_of(ROOT / "beat_schedule.py")))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}

    assert imported <= {"__future__", "datetime", "typing", "collections.abc", "types"}
