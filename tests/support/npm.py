"""Programs from the npm registry, installed once for a whole run of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import fasteners

from tests.support.services import missing

CLAUDE = "@anthropic-ai/claude-code@2.1.197"
"""The newest that runs on Node 20."""

CODEX = "@openai/codex@0.169.0"
GEMINI = "@google/gemini-cli@0.61.0"
OPENCODE = "opencode-ai@1.18.33"


def npm_program(package: str, name: str, folder: Path) -> str:
    """Return the path of the program *name* of *package*, in *folder*, which other test processes share."""
    if shutil.which("npm") is None:
        missing("npm", "no npm on PATH")
    home = folder / name
    program = home / "node_modules" / ".bin" / name
    with fasteners.InterProcessLock(f"{home}.lock"):
        if not program.exists():
            home.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--prefix", home, package],
                env={**os.environ, "npm_config_cache": str(folder / "npm")},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if done.returncode != 0:
                missing(f"npm package {package}", done.stderr.strip()[-500:])
    return str(program)
