"""Embedded stacks under test: settings in a folder with a short path, and a worker that starts at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from coordination.settings import Settings, load_settings
from coordination.stack.stack import Stack

_HERE = Path(__file__).resolve().parent.parent / "local"
_ROOT = _HERE.parent.parent

OWNER = str(_HERE / "owner.py")


def stand_in(how: str = "obeys") -> list[str]:
    """Return the command of a worker that stands in for Celery's."""
    return [sys.executable, str(_HERE / "stand_in_worker.py"), how]


def settings_in(home: Path, **overrides: Any) -> Settings:
    """Return settings of a stack in *home*, independent of the environment of the tests."""
    return load_settings({}, home=home, **overrides)


def worker_pid(running: Stack) -> int:
    """Return the pid of the worker that was started last."""
    record = running.home.read()
    assert record is not None
    return record.services["worker"].pid


def owner_environment(home: Path) -> dict[str, str]:
    """Return the environment of a process that owns a stack in *home*."""
    return {"COORD_HOME": str(home), "PYTHONPATH": str(_ROOT)}
