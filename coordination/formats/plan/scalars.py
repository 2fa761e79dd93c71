"""Interpretation of plain YAML scalars: texts, numbers, true, false, null, or ambiguous ones, which need quotes."""

from __future__ import annotations

import math
import re
from typing import Any

from coordination.base.fields import Unquoted

MAX_DIGITS = 300

_FIXED: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_FIXED |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# Numbers in only one of YAML 1.1 and 1.2: binary, octal, with underscores, sexagesimal.
_OLD_NUMBER = re.compile(
    r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0[0-9_]+(?:\.[0-9_]*)?|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)"
    r"(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9:.]+.*)?")
_NUMERIC = frozenset("0123456789+-.")  # first characters of numbers and dates

_WORDS: dict[str, bool | Unquoted | None] = _FIXED | {
    form(word): Unquoted(form(word), reading)
    for reading, words in (("true", ("yes", "on")), ("false", ("no", "off")))
    for word in words
    for form in (str.lower, str.upper, str.capitalize)
}


def plain_value(text: str) -> Any:
    """Return the value of *text* written without quotes: a str, int, float, bool, None or Unquoted."""
    if not text or text[0] not in _NUMERIC:
        return _WORDS.get(text, text)
    number = _number(text)
    if number is not None:
        return number
    if _OLD_NUMBER.fullmatch(text):
        return Unquoted(text, "a number")
    if _DATE.fullmatch(text):
        return Unquoted(text, "a date")
    return text


def _number(text: str) -> int | float | None:
    if len(text) <= MAX_DIGITS and _WHOLE.fullmatch(text):
        return int(text)
    if len(text) <= MAX_DIGITS and _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if _NUMBER.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return math.nan if text[-1] in "nN" else math.copysign(math.inf, -1 if text[0] == "-" else 1)
    return None
