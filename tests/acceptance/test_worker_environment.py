"""Test that no job can read in /proc what only our own processes are given."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.services import missing

LOOK = """
import os, time
found = set()
for _ in range(20):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as command:
                if b"hunter2-of-this-test" in environ.read():
                    found.add(command.read().replace(b"\\0", b" ").decode())
        except OSError:
            pass
    time.sleep(0.1)
print(sorted(found))
"""


@pytest.mark.smoke
def test_a_job_finds_the_workers_environment_nowhere(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(LOOK)
    (tmp_path / "plan.yaml").write_text(
        f"""
version: 1
project: {{name: p, path: {tmp_path}}}
tasks:
  - {{key: shell, run: {{shell: {json.dumps(shlex.quote(sys.executable) + " look.py")}}}}}
  - {{key: python, run: {{python: "os:getpid"}}}}
"""
    )
    start = [sys.executable, "-m", "coordination.cli"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            missing("setpriv", "root may read everything")
        start = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *start]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COORD_HOME": str(tmp_path / "home")}
    variables = environment | {"TEAM_TOKEN": "hunter2-of-this-test"}

    done = subprocess.run(
        [*start, "run", "plan.yaml"],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    output = subprocess.run(
        [*start, "tasks", "output", "shell"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert output.stdout.strip() == "[]"
