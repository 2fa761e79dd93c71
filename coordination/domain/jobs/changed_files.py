"""What an agent's attempt changed where it worked, and which tools it was not allowed to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordination.base.wording import plural

EXPECTS = "expects"
CHANGES = "changes"
"""``expects: changes``: an attempt that changes nothing has failed."""


@dataclass(frozen=True, slots=True)
class ChangeSummary:
    """``changed``: whether it changed anything in its folder; None: nobody looked, or it cannot be known."""

    changed: bool | None = None
    refused: int = 0

    def to_json(self) -> dict[str, Any]:
        """As stored with the attempt."""
        return {"changed": self.changed, "refused_tools": self.refused}

    def sentence(self) -> str | None:
        """What a person should know of it; None when there is nothing to say."""
        return sentence_of(self.to_json())


def sentence_of(stored: object) -> str | None:
    """The same of what is stored: ``changed nothing, 3 tools refused``."""
    if not isinstance(stored, dict):
        return None
    refused = stored.get("refused_tools") or 0
    said = ["changed nothing"] if stored.get("changed") is False else []
    if refused:
        said.append(f"{plural(int(refused), 'tool')} refused")
    return ", ".join(said) or None
