"""The job of a task with variants, which returns the output of the one that completed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NoVariantCompleted(Exception):
    """Every variant ended without success."""


CHOOSE_VARIANT = "system:choose_variant"
"""The registered name of ``choose``."""

REGISTERED_FUNCTIONS = {CHOOSE_VARIANT: f"{__name__}:choose"}
"""Functions of this program that tasks call, by their stored names."""


def choose(needs: Mapping[str, Mapping[str, Any]], task: str) -> Any:
    """Return the output of the variant that completed, once all have ended. Raises NoVariantCompleted."""
    for _, need in sorted(needs.items()):
        if need["state"] == "completed":
            return need["output"]
    ended = ", ".join(f"{key} {need['state']}" for key, need in sorted(needs.items()))
    raise NoVariantCompleted(f"no variant of {task} completed: {ended}")
