"""What a task with variants gives: what the first of them gave that passed its gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NoVariantCompleted(Exception):
    """Every variant ended without success."""


def chosen(needs: Mapping[str, Mapping[str, Any]], task: str) -> Any:
    """The output of the variant that completed; a job of its own, which runs when all have ended.

    Raises NoneCompleted.
    """
    for _, need in sorted(needs.items()):
        if need["state"] == "completed":
            return need["output"]
    ended = ", ".join(f"{key} {need['state']}" for key, need in sorted(needs.items()))
    raise NoVariantCompleted(f"no variant of {task} completed: {ended}")
