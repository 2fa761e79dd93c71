"""Parses and prints times as people write them (today, monday, 7d), in the time zone of this machine."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from coordination.base.clock import day_start, utc_now
from coordination.domain.money.date_ranges import DateRange

_ONE = timedelta(days=1)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_BACK = re.compile(r"(\d{1,4})\s*([hdw])", re.ASCII)
_UNITS = {"h": timedelta(hours=1), "d": _ONE, "w": timedelta(weeks=1)}


def resolve_time(
    value: str | date | None, *, zone: str, end: bool = False, now: datetime | None = None
) -> str | date | None:
    """Return a day or a moment for *value* if it is a word or a duration, and other values unchanged.

    Words are days of this machine's time zone: today, yesterday, and the latest of a weekday; ``7d``, ``12h`` and
    ``2w`` are that long before now. A day is returned as such where it starts at the same moment in *zone*, the
    workspace's. *end*: the day is included.
    """
    if not isinstance(value, str):
        return value
    present, word = now or utc_now(), value.strip().lower()
    if back := _BACK.fullmatch(word):
        return present - int(back[1]) * _UNITS[back[2]]
    today = present.astimezone().date()
    if word in {"today", "yesterday"}:
        day = today if word == "today" else today - _ONE
    elif word in _WEEKDAYS:
        day = today - (today.weekday() - _WEEKDAYS.index(word)) % 7 * _ONE
    else:
        return value
    edge = day + _ONE if end else day
    moment = datetime(edge.year, edge.month, edge.day).astimezone(UTC)
    return day if moment == day_start(edge, zone) else moment


def describe(span: DateRange, zone: str) -> str | None:
    """Return the limits of *span* in words, with their time zones; None where it has none."""
    parts = [
        f"{word} {_moment(moment)}" if moment is not None else f"{word} {day} ({zone}, the workspace's time zone)"
        for word, moment, day in (("from", span.since, span.first), ("until", span.until, span.last))
        if moment is not None or day is not None
    ]
    return " ".join(parts) or None


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z} (your time zone)"
