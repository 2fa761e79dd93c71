"""Checks single values of a plan: texts of one line, JSON, whole numbers. Each check calls the caller's *refuse*."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NoReturn

from coordination.base.errors import Refused
from coordination.base.json_values import json_problem, text_problem
from coordination.base.wording import excerpt
from coordination.domain.jobs.accounts import check_account
from coordination.domain.plans.plans import MAX_KEY

Refuse = Callable[..., NoReturn]
"""Raises: takes a message, a hint or None, and the field that is wrong."""

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


def check_name(refuse: Refuse, what: str, text: object, *, longest: int = MAX_KEY, field: str | None = None) -> None:
    """Refuse what is no text of one line for people: empty, too long, or with signs that move a cursor."""
    if text is None:
        return
    field = field or what
    if not isinstance(text, str):
        refuse(f"{what} must be a text, not {excerpt(text)}", field=field)
    if not text.strip():
        refuse(f"{what} is empty", "Leave it out, or give it a text", field=field)
    if len(text) > longest:
        refuse(f"{what} has {len(text):,} characters, at most {longest:,} are possible: {excerpt(text)}", field=field)
    if problem := text_problem(text):
        refuse(f"{what} {problem}: {excerpt(text)}", field=field)
    if _CONTROL.search(text):
        refuse(f"{what} must be one line without control characters: {excerpt(text)}", field=field)


def check_json(refuse: Refuse, what: str, value: object) -> None:
    """Refuse what is no mapping that JSON can express."""
    if not isinstance(value, Mapping):
        refuse(f"{what} must map names to values, not {excerpt(value)}", field=what)
    if value and (problem := json_problem(dict(value))):
        refuse(f"{what} {problem}", field=what)


def is_whole(value: object, lowest: int, highest: int) -> bool:
    """Return whether *value* is a whole number in these limits."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def check_account_name(refuse: Refuse, account: object) -> None:
    """Refuse what names no account; None names none, and may."""
    try:
        if account is not None:
            check_account(account)
    except Refused as refused:
        refuse(refused.message, refused.hint, field=refused.field)
