"""What can be the matter with a running system: one finding each, with what mends it. Pure records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a look at the running system found.

    ``code`` is stable and machine-readable; ``subject`` says of what (a task, a worker, …); ``hint`` is the command or
    the action that mends it. ``wrong`` False: worth knowing, but nothing has to be done. ``since``: when it began,
    where that is known.
    """

    code: str
    subject: str
    sentence: str
    hint: str
    wrong: bool = True
    since: datetime | None = None


def some(keys: list[str], total: int, most: int = 5) -> str:
    """The first few names of many: ``a, b, c and 7 more``."""
    named = ", ".join(keys[:most])
    more = total - len(keys[:most])
    return f"{named} and {more} more" if more > 0 else named
