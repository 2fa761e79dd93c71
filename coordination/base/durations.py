"""Durations as people write and read them: ``30m``, ``1h30m``, ``250ms``, ``2d``; a plain number is seconds."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

from coordination.base.errors import Refused
from coordination.base.wording import excerpt

MAX_DURATION = timedelta(days=3650)
"""Ten years: longer durations are mistakes, and could leave the range of dates."""

_NUMBER = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_UNITS = "".join(rf"({_NUMBER}{unit}\s*)?" for unit in "wdhms")
PATTERN = rf"^\s*({_NUMBER}|(?=[0-9]){_UNITS}({_NUMBER}ms)?)\s*$"
"""A written duration: every unit at most once, from long to short, or only seconds. Valid in a JSON Schema too."""

_WHOLE = re.compile(PATTERN)
_PART = re.compile(r"([0-9.]+)(ms|[wdhms]|\s*$)")
_MICROSECONDS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
}
_LONGEST_TEXT = 200
_HOW = "Write it like 30m, 1h30m, 90s, 250ms or 2d, or as a number of seconds"


def parse_duration(value: str | float) -> timedelta:
    """Return *value* as a timedelta, exact to the microsecond. Raises Refused if invalid or above ten years."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refused(f"{excerpt(value)} is not a duration", hint=_HOW)
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT or not _WHOLE.match(value):
            raise Refused(f"{excerpt(value)} is not a duration", hint=_HOW)
        parts = [Decimal(number) * _MICROSECONDS[unit.strip() or "s"] for number, unit in _PART.findall(value)]
        exact = sum(parts, Decimal(0))
    else:
        if not 0 <= value <= MAX_DURATION.total_seconds():  # also false for NaN
            raise _out_of_range(value)
        exact = Decimal(repr(value)) * _MICROSECONDS["s"]
    if exact > MAX_DURATION // timedelta(microseconds=1):
        raise _out_of_range(value)
    return timedelta(microseconds=int(exact.to_integral_value()))


def _out_of_range(value: object) -> Refused:
    return Refused(f"{excerpt(value)} is not a duration between 0 and {MAX_DURATION.days:,} days", hint=_HOW)


def write_duration(duration: timedelta) -> str:
    """Return *duration* in the notation that parse_duration reads back exactly."""
    rest = duration // timedelta(microseconds=1)
    if rest < 0:
        raise Refused(f"{duration} is negative, which a plan cannot contain")
    if 0 < rest < _MICROSECONDS["s"] and rest % _MICROSECONDS["ms"] == 0:
        return f"{rest // _MICROSECONDS['ms']}ms"
    parts = []
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _MICROSECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    if rest or not parts:
        seconds, fraction = divmod(rest, _MICROSECONDS["s"])
        parts.append(f"{seconds}{f'.{fraction:06d}'.rstrip('0').rstrip('.')}s")
    return "".join(parts)


def show_duration(duration: timedelta) -> str:
    """Return *duration* for people, with at most two units: ``250ms``, ``3.2s``, ``1m05s``, ``2h30m``, ``3d4h``."""
    if duration < timedelta(0):
        return "-" + show_duration(-duration)
    if timedelta(0) < duration < timedelta(seconds=9.95):
        whole = round(duration / timedelta(milliseconds=1))
        return f"{whole}ms" if duration < timedelta(milliseconds=999.5) else f"{duration / timedelta(seconds=1):.1f}s"
    minutes, seconds = divmod(round(duration / timedelta(seconds=1)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m{seconds:02d}s" if seconds else f"{minutes}m"
    return f"{seconds}s"
