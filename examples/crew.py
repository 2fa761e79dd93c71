"""Runs an example with agents on a fresh copy of the package ``till``: ``python examples/crew.py fix-the-tests``.

Without more words a script stands in for every agent, and no key is needed. ``--agent claude`` (codex, gemini,
opencode) lets the real one do it, with the key that it needs in the environment: docs/agents.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROLES = ("fixer", "reviewer", "supervisor", "builder")
MAY_DO = {
    "claude": ["--permission-mode", "acceptEdits", "--allowedTools", "Bash,Edit,Write,Read"],
    "codex": ["-s", "workspace-write"],
    "gemini": ["--yolo"],
}


def main() -> int:
    """Copy, introduce the agents, run; the exit status is that of ``coord run``."""
    examples = [path.stem for path in sorted(HERE.glob("*.yaml")) if "agent:" in path.read_text(encoding="utf-8")]
    parser = argparse.ArgumentParser(prog="python examples/crew.py", description=__doc__)
    parser.add_argument("example", choices=examples)
    parser.add_argument("--agent", choices=["claude", "codex", "gemini", "opencode"], help="default: a script")
    parser.add_argument("--model", help="as the agent calls it")
    parser.add_argument("--folder", type=Path, help="where to put the package (default: a new folder)")
    asked = parser.parse_args()

    folder = asked.folder or Path(tempfile.mkdtemp(prefix="till-"))
    shutil.copytree(HERE / "till", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    named = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*named, "commit", "-q", "-m", "A till"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    runner = {"agent": "custom", "command": [sys.executable, str(HERE / "stand_in.py")]}
    if asked.agent:
        runner = {"agent": asked.agent, "args": MAY_DO.get(asked.agent, [])}
    agents = [{"name": name, "runner": runner, "model": asked.model} for name in ROLES]
    environment = {"COORD_HOME": f"{folder}-coord", **os.environ}  # worktrees are made there, outside of the checkout
    coord = [sys.executable, "-m", "coordination.cli"]
    introduced = json.dumps({"version": 1, "agents": agents}).encode()
    subprocess.run([*coord, "agents", "import", "-"], input=introduced, cwd=folder, env=environment, check=True)
    print(f"== {folder}: coord run {asked.example}.yaml")
    return subprocess.run(
        [*coord, "run", str(HERE / f"{asked.example}.yaml")], cwd=folder, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
