"""Whether an agent's attempt changed its checkout, and how many uses of tools were refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordination.base.wording import plural

EXPECTS = "expects"
CHANGES = "changes"
"""``expects: changes``: an attempt that changes nothing fails."""


@dataclass(frozen=True, slots=True)
class ChangeSummary:
    """What an attempt changed. ``changed``: None if not checked. ``refused``: the number of refused tool uses."""

    changed: bool | None = None
    refused: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with the attempt."""
        return {"changed": self.changed, "refused_tools": self.refused}

    def sentence(self) -> str | None:
        """Return a summary for people, such as ``changed nothing, 3 tools refused``, or None."""
        return sentence_of(self.to_json())


def sentence_of(stored: object) -> str | None:
    """Return the summary of a stored ChangeSummary, or None."""
    if not isinstance(stored, dict):
        return None
    refused = stored.get("refused_tools") or 0
    parts = ["changed nothing"] if stored.get("changed") is False else []
    if refused:
        parts.append(f"{plural(int(refused), 'tool')} refused")
    return ", ".join(parts) or None
