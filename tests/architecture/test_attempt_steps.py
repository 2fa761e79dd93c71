"""Test that the steps around a runner are one list: no other module names one, and a new step is a file and a line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.support.sources import ROOT

STEPS = ROOT / "workers" / "attempt" / "steps"
LIST = ROOT / "workers" / "attempt" / "step_list.py"
_PACKAGE = "workers.attempt.steps"


def imported_steps(source: Path) -> set[str]:
    """Return the names of the step modules that a file imports."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PACKAGE):
            names = [alias.name for alias in node.names] if node.module == _PACKAGE else [str(node.module)]
            imported |= {name.rpartition(".")[2] for name in names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name.rpartition(".")[2] for alias in node.names if alias.name.startswith(_PACKAGE)}
    return imported


def step_modules() -> set[str]:
    return {path.stem for path in STEPS.glob("*.py")} - {"__init__"}


def test_every_step_module_is_in_the_list() -> None:
    assert step_modules() == imported_steps(LIST)


def test_each_step_is_one_line_of_the_list() -> None:
    text = LIST.read_text(encoding="utf-8")
    lines = re.findall(r"^        ConditionalStep\(.*\),$", text, re.MULTILINE)

    assert len(lines) == text.count("ConditionalStep(") > len(step_modules())


def test_no_other_module_imports_a_step() -> None:
    importers = {
        str(path.relative_to(ROOT)): imported_steps(path)
        for package in ("coordination", "workers")
        for path in (ROOT / package).rglob("*.py")
        if path != LIST and imported_steps(path)
    }

    assert importers == {}


def test_the_executor_and_the_pipeline_name_no_step() -> None:
    engine = [path for path in (ROOT / "workers" / "engine").glob("*.py") if path.name != "__init__.py"]
    named = {
        path.name: sorted(
            step for step in step_modules() if re.search(rf"\b{step}\b", path.read_text(encoding="utf-8"))
        )
        for path in [*engine, ROOT / "workers" / "attempt" / "pipeline.py"]
    }

    assert engine
    assert {name: steps for name, steps in named.items() if steps} == {}
