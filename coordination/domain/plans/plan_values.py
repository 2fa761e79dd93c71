"""Checks of single values of a plan: texts of one line, JSON, whole numbers. Each calls *refuse* for a problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NoReturn

from coordination.base.json_values import json_problem, text_problem
from coordination.base.wording import excerpt
from coordination.domain.plans.plans import MAX_KEY

Refuse = Callable[..., NoReturn]
"""A function that raises; its arguments are a message, a hint or None, and the field that is wrong."""

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


def check_name(refuse: Refuse, what: str, text: object, *, longest: int = MAX_KEY, field: str | None = None) -> None:
    """Refuse a value that is not a text of one line: empty, too long, or with control characters."""
    if text is None:
        return
    field = field or what
    if not isinstance(text, str):
        refuse(f"{what} must be a text, not {excerpt(text)}", field=field)
    if not text.strip():
        refuse(f"{what} is empty", "Leave it out, or write a text", field=field)
    if len(text) > longest:
        refuse(f"{what} has {len(text):,} characters, at most {longest:,} are possible: {excerpt(text)}", field=field)
    if problem := text_problem(text):
        refuse(f"{what} {problem}: {excerpt(text)}", field=field)
    if _CONTROL.search(text):
        refuse(f"{what} must be one line without control characters: {excerpt(text)}", field=field)


def check_json(refuse: Refuse, what: str, value: object) -> None:
    """Refuse a value that is not a mapping that JSON can express."""
    if not isinstance(value, Mapping):
        refuse(f"{what} must map names to values, not {excerpt(value)}", field=what)
    if value and (problem := json_problem(dict(value))):
        refuse(f"{what} {problem}", field=what)


def is_whole(value: object, lowest: int, highest: int) -> bool:
    """Return whether *value* is a whole number within these bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
