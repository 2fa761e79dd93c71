"""Parts of sentences for people: short quotations, suggestions, numbers with nouns."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable

LONGEST_SHOWN_PATH = 1_000
"""Characters of a path up to which it is not cut, because its end matters most."""

_LONGEST = 60
_CANDIDATES = 200


def excerpt(text: object, longest: int = _LONGEST) -> str:
    """Return *text* quoted on one line; a long one is cut, with its length."""
    whole = str(text) if isinstance(text, str) else _repr(text)  # str(): a StrEnum member is shown as its text
    if len(whole) <= longest:
        return repr(whole) if isinstance(text, str) else whole
    return f"{whole[:longest]!r}… ({len(whole):,} characters)"


def without_user(url: str) -> str:
    """Return *url*, valid or not, with user and password replaced by asterisks; in doubt, too much is masked."""
    return re.sub(r"^([^:/@]*://)?.*@", r"\1***@", url, flags=re.DOTALL)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        return f"a {type(value).__name__}"


def plural(number: int, singular: str, plural_form: str | None = None) -> str:
    """Return a number with its noun: ``1 task``, ``2,000 tasks``."""
    return f"{number:,} {singular if number == 1 else plural_form or singular + 's'}"


def did_you_mean(word: str, names: Iterable[str]) -> str | None:
    """Return a hint that names the closest of *names*, or None. Linear in *names*: compares only the likeliest."""
    word = word[:200]
    likely = heapq.nlargest(_CANDIDATES, names, key=lambda other: _likeness(word, other))
    close = difflib.get_close_matches(word, likely, n=1, cutoff=0.6)
    return f"Did you mean {excerpt(close[0])}?" if close else None


def _likeness(word: str, other: str) -> tuple[int, int]:
    """Return the length of the common beginning and end of two words, and then how near their lengths are.

    Cheap enough for 200,000 words.
    """
    shorter = min(len(word), len(other))
    head = 0
    while head < shorter and word[head] == other[head]:
        head += 1
    tail = 0
    while tail < shorter - head and word[-1 - tail] == other[-1 - tail]:
        tail += 1
    return head + tail, -abs(len(word) - len(other))
