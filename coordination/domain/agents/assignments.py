"""Who is to do a task: pure rules for giving it to another model or agent, and for those that a person does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PERSON = "person"
"""Under which name a task's options hold the person who is to do it."""


def for_model(work: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the job *work* with another *model*: of a chat, with its provider if *model* names none."""
    if "chat" not in work:
        return {**work, "model": model}
    provider, _, _ = str(work["chat"]).partition(":")
    return {**work, "chat": model if ":" in model else f"{provider}:{model}"}


def without_introduction(prompt: str, introduction: str) -> str:
    """Return *prompt* without what an agent's profile has put before it."""
    return prompt.removeprefix(f"{introduction}\n\n") if introduction else prompt
