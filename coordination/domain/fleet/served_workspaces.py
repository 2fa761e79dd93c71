"""Whose jobs a worker runs: the names of workspaces, as a setting has them."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
ALL = "*"


def served_names(text: str) -> tuple[str, ...] | None:
    """The names in *text*, which has commas between them; None for all workspaces, ``*``."""
    return None if text.strip() == ALL else tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def checked_names(text: str) -> str:
    """*text*, when it is one that ``served_names`` can read; ValueError otherwise."""
    if not all(NAME.fullmatch(name) for name in served_names(text) or ()):
        raise ValueError
    return text
