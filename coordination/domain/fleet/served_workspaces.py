"""Names of the workspaces whose jobs a worker runs, as a setting."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
ALL = "*"


def parse_names(text: str) -> tuple[str, ...] | None:
    """Return the comma-separated names in *text*; None for all workspaces, ``*``."""
    return None if text.strip() == ALL else tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def check_names(text: str) -> str:
    """Return *text* if ``parse_names`` can read it; else raise ValueError."""
    if not all(NAME.fullmatch(name) for name in parse_names(text) or ()):
        raise ValueError
    return text
