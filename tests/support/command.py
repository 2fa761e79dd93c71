"""The command line as its users start it: a process of its own, an environment that only the test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
_LIMIT = 90


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as the one JSON document that it has to be."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Coord:
    """``coord`` on one home folder, started in one folder."""

    home: Path
    cwd: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the tests without any setting of ours, and the test's own settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COORD_")}
        return {**kept, "COORD_HOME": str(self.home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", **self.settings}

    def __call__(self, *argv: str | Path, code: int | None = 0) -> Said:
        """Run one command to its end; *code* is what it must exit with (None: anything)."""
        done = subprocess.run(
            [sys.executable, "-m", "coordination.cli", *map(str, argv)],
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=_LIMIT,
            stdin=subprocess.DEVNULL,
        )
        said = Said(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code is None or said.code == code, f"exit code {said.code}\n{said.out}\n{said.err}"
        return said


def coord_in(folder: Path, **settings: str) -> Coord:
    """``coord`` with a home and a working folder of its own below *folder*."""
    place = folder / "shop"
    place.mkdir(exist_ok=True)
    return Coord(home=folder / "home", cwd=place, settings=settings)
