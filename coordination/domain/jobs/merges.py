"""The record of a merge, stored before the run's branch moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Merge:
    """The intent of *attempt* to move *branch* from one commit to another, after all gates have passed.

    *result*: ``output``, ``exit_code``, ``log`` and ``artifacts`` of the attempt, as JSON values.
    """

    attempt: int
    branch: str
    old_commit: str
    new_commit: str
    result: Mapping[str, Any]
