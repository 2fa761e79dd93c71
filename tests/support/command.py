"""Runs ``coord`` in this process or as its users start it, with an environment and a folder that only the test sets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordination.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
_LIMIT = 90


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Parse stdout, which must be one JSON document."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Coord:
    """``coord`` on one home folder, run in one folder."""

    home: Path
    cwd: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the tests without any setting of ours, with the test's own settings added."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COORD_")}
        return {**kept, "COORD_HOME": str(self.home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", **self.settings}

    def __call__(self, *argv: str | Path, code: int | None = 0) -> CommandResult:
        """Run one command in this process and check its exit code against *code* (None: any)."""
        out, err = _captured(), _captured()
        with _process_state(self.environment, self.cwd), redirect_stdout(out), redirect_stderr(err):
            exit_code = main([str(part) for part in argv])
        return _expected(CommandResult(exit_code, _text(out), _text(err)), code)

    def process(self, *argv: str | Path, code: int | None = 0) -> CommandResult:
        """Run one command in a process of its own, as one needs that starts a stack or replaces or ends its process."""
        done = subprocess.run(
            [sys.executable, "-m", "coordination.cli", *map(str, argv)],
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=_LIMIT,
            stdin=subprocess.DEVNULL,
        )
        return _expected(CommandResult(done.returncode, done.stdout.decode(), done.stderr.decode()), code)


def coord_in(folder: Path, **settings: str) -> Coord:
    """Provide ``coord`` with a home and a working folder of its own below *folder*."""
    place = folder / "shop"
    place.mkdir(exist_ok=True)
    return Coord(home=folder / "home", cwd=place, settings=settings)


def _expected(result: CommandResult, code: int | None) -> CommandResult:
    assert code is None or result.code == code, f"exit code {result.code}\n{result.out}\n{result.err}"
    return result


def _captured() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


@contextmanager
def _process_state(environment: Mapping[str, str], cwd: Path) -> Iterator[None]:
    """Set this process's environment, *cwd* and an empty stdin, and restore its own afterwards."""
    before, folder, stdin = dict(os.environ), Path.cwd(), sys.stdin
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(cwd)
        with Path(os.devnull).open() as nothing:
            sys.stdin = nothing
            yield
    finally:
        sys.stdin = stdin
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)
