"""Test that the script of docs/beads.md works off the issues of a file in order, with a stand-in for the agent."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from tests.support.processes import Processes
from tests.support.sources import ROOT

AGENT = '#!/bin/sh\necho "told: $(cat)"\n'


def issue(name: str, title: str, **fields: object) -> str:
    created = {"id": name, "title": title, "status": "open", "priority": 1, "issue_type": "task", **fields}
    return json.dumps({**created, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"})


def test_the_script_tells_the_agent_what_each_issue_says(processes: Processes, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "beads.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "claude").write_text(AGENT)
    (tmp_path / "work-on.sh").write_text(script)
    for program in ("claude", "work-on.sh"):
        (tmp_path / program).chmod(0o755)
    (tmp_path / "issues.jsonl").write_text(
        "\n".join([issue("bd-1", "A leak", description="It drips"), issue("bd-2", "No words")]) + "\n"
    )
    environment = {name: "" for name in os.environ if name.startswith("COORD_")} | {
        "COORD_HOME": str(tmp_path / "home"),
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }

    ran = processes.start_python(
        *("-m", "coordination.cli", "run", "--beads", "issues.jsonl", "--agent", "shell:./work-on.sh", "--slots", "1"),
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )

    assert ran.wait() == 0, ran.output
    assert "told: A leak\n\n  It drips" in ran.output.replace("  \n", "\n"), ran.output
    assert "told: No words" in ran.output
