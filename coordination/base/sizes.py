"""Sizes as people write and read them: ``512MiB``, ``2GiB``, ``1.5GB``; a plain number is bytes."""

from __future__ import annotations

import re
from decimal import Decimal

from coordination.base.errors import Refused
from coordination.base.wording import excerpt

LARGEST = 1 << 59

PATTERN = r"^\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([kKMGTP]i?)?B?\s*$"
"""A written size. Valid in a JSON Schema too."""

_SIZE = re.compile(PATTERN, re.ASCII)
_PREFIXES = "kMGTP"
_HOW = "Write it like 512MiB, 2GiB or 1.5GB, or as a number of bytes"


def parse_size(value: str | float) -> int:
    """Return *value* in bytes, at least 1; ``k`` is 1,000 and ``Ki`` 1,024, and so on. Raises Refused if invalid."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refused(f"{excerpt(value)} is not a size", hint=_HOW)
    match = _SIZE.match(str(value))
    if match is None:
        raise Refused(f"{excerpt(value)} is not a size", hint=_HOW)
    number, unit = Decimal(match[1]), match[2] or ""
    if unit:
        base = 1_024 if unit.endswith("i") else 1_000
        number *= base ** (1 + _PREFIXES.index(unit[0].replace("K", "k")))
    if not 1 <= number <= LARGEST:
        raise Refused(f"{excerpt(value)} is not a size between 1 byte and {write_size(LARGEST)}", hint=_HOW)
    return int(number)


def write_size(size: int) -> str:
    """Return *size* in the largest unit in which it is a whole number; parse_size reads it back."""
    for power in range(len(_PREFIXES), 0, -1):
        if size and size % 1_024**power == 0:
            return f"{size // 1_024**power}{_PREFIXES[power - 1].upper()}iB"
    return str(size)


def show_size(size: int) -> str:
    """Return *size* for people: ``812 bytes``, ``1.5 MiB``, ``2 GiB``."""
    power, number = 0, float(size)
    while number >= 1_000 and power < len(_PREFIXES):  # noqa: PLR2004 - 1 MiB is easier to read than 1,000 KiB
        number, power = number / 1_024, power + 1
    if power == 0:
        return "1 byte" if size == 1 else f"{size} bytes"
    return f"{number:.1f}".removesuffix(".0") + f" {_PREFIXES[power - 1].upper()}iB"
