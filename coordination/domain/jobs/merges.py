"""What is recorded of a merge before the run's branch moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Merge:
    """An *attempt* was about to move *branch* from one commit to another, after all gates had passed.

    *result*: ``output``, ``exit_code``, ``log`` and ``artifacts`` of the attempt, as JSON values.
    """

    attempt: int
    branch: str
    old_commit: str
    new_commit: str
    result: Mapping[str, Any]
