"""What a task with variants gives: what the first of them gave that passed its gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NoVariantCompleted(Exception):
    """Every variant ended without success."""


CHOOSE_VARIANT = "system:choose_variant"
"""The registered name of the function that takes over from a task's variants."""

REGISTERED = {CHOOSE_VARIANT: f"{__name__}:choose"}
"""Functions of this program that tasks call, by the name that is stored with them."""


def choose(needs: Mapping[str, Mapping[str, Any]], task: str) -> Any:
    """The output of the variant that completed; a job of its own, which runs when all have ended.

    Raises NoneCompleted.
    """
    for _, need in sorted(needs.items()):
        if need["state"] == "completed":
            return need["output"]
    ended = ", ".join(f"{key} {need['state']}" for key, need in sorted(needs.items()))
    raise NoVariantCompleted(f"no variant of {task} completed: {ended}")
