"""Findings about the state of a running system."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem, or notable fact, of the running system.

    ``code`` is stable and machine-readable; ``subject`` names a task, a worker, …; ``hint`` is the command or action
    that fixes it. ``wrong`` False: nothing has to be done. ``since``: when it began, if known.
    """

    code: str
    subject: str
    sentence: str
    hint: str
    wrong: bool = True
    since: datetime | None = None


def shorten_list(keys: list[str], total: int, most: int = 5) -> str:
    """Return the first few of many names: ``a, b, c and 7 more``."""
    shown = ", ".join(keys[:most])
    more = total - len(keys[:most])
    return f"{shown} and {more} more" if more > 0 else shown
