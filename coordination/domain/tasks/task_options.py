"""What is stored with a task beside its job: ``tasks.options``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MORE_THAN_A_JOB = ("checkout", "gates", "outputs", "role", "expects")


def alone(options: Mapping[str, Any]) -> bool:
    """Whether the task's job is looked after alone, however short it is: something comes before or after it."""
    return bool(options) and any(name in options for name in _MORE_THAN_A_JOB)
