"""Test that adapters are found by their modules: a new adapter is one file that plans and workers both use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coordination.domain.jobs import agent_programs
from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.sources import ROOT
from workers.runners.agents import adapters

PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
PLAN = """\
version: 1
tasks:
  - {key: mend, run: {agent: smith, prompt: Mend it, command: [smith]}}
"""


def block(language: str) -> str:
    """Return the only code block of a language on the page about adapters."""
    (matches,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(matches)


@pytest.fixture
def smith(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the adapter of the page in one more folder of the package, and a program that prints the stream."""
    (tmp_path / "smith.py").write_text(block("python"), encoding="utf-8")
    program = tmp_path / "smith"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\ncat <<'END'\n{block('json')}END\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{adapters.__name__}.smith", raising=False)
    monkeypatch.setitem(adapters.ADAPTERS, "smith", adapters.load_adapter("smith"))


def test_every_module_of_adapters_is_an_agent_that_jobs_may_name() -> None:
    modules = {path.stem for path in Path(adapters.__file__ or "").parent.glob("*.py")} - {"__init__"}

    assert set(agent_programs.AGENTS) == set(adapters.ADAPTERS) == modules
    assert {"claude", "codex", "gemini", "opencode", "custom"} <= modules
    assert all(adapter.name == name for name, adapter in adapters.ADAPTERS.items())


@pytest.mark.usefixtures("smith")
def test_an_adapter_in_one_new_file_starts_and_reads_its_agent(bench: Bench) -> None:
    result = bench.run({"agent": "smith", "prompt": "Mend it"})

    assert (result.outcome, result.output) == (Outcome.COMPLETED, "All tests pass now.")
    assert [(used.model, used.input_tokens, used.output_tokens) for used in result.usage] == [("large-2", 1200, 60)]


@pytest.mark.usefixtures("smith")
def test_an_agent_that_takes_no_servers_is_refused_tools_where_it_starts(bench: Bench) -> None:
    result = bench.run({"agent": "smith", "prompt": "Mend it", "tools": ["coord"]})

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert "its own configuration" in (result.error or "")


def test_a_plan_may_name_an_agent_as_soon_as_its_file_is_there(tmp_path: Path) -> None:
    for package in ("coordination", "workers"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "workers/runners/agents/adapters/smith.py").write_text(block("python"), encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    code = (
        "from coordination.domain.jobs.agent_programs import AGENTS;"
        "from coordination.domain.agents.agents import Profile, check_profile;"
        "from workers.runners.agents.adapters import ADAPTERS; from coordination.formats.plan import read_plan;"
        "check_profile(Profile('dave', runner={'agent': 'smith'}));"
        "read_plan(open('plan.yaml', 'rb').read(), source='plan.yaml'); print(*AGENTS, *ADAPTERS)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("smith") == 2


@pytest.mark.parametrize("source", ["", "class Smith:\n    name = 'jones'\n"])
def test_a_module_without_an_adapter_of_its_name_is_an_error(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "anvil.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{adapters.__name__}.anvil", raising=False)

    with pytest.raises(LookupError):
        adapters.load_adapter("anvil")
