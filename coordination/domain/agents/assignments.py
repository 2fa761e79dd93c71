"""Who is to do a task: pure rules for giving it to another model or agent, and for those that a person does."""

from __future__ import annotations

PERSON = "person"
"""Under which name a task's options hold the person who is to do it."""


def without_introduction(prompt: str, introduction: str) -> str:
    """Return *prompt* without what an agent's profile has put before it."""
    return prompt.removeprefix(f"{introduction}\n\n") if introduction else prompt
