"""Parser of the reset times of limits in messages of providers and their programs.

These contain seconds since 1970 (``limit reached|1767225600``), durations (``try again in 5 days 3 hours``,
``Retry-After: 30``), dates, or times of day (``resets 3pm (Europe/Berlin)``), with or without a zone.
"""

from __future__ import annotations

import contextlib
import math
import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

LONGEST = timedelta(days=35)
"""The farthest plausible reset: the longest limits of providers are monthly."""

_JUST_NOW = timedelta(minutes=10)  # a time of day that passed so recently means today
_MOST_DIGITS = 13
_MILLISECONDS = 100_000_000_000  # a number of seconds this large lies in the year 5138

_UNITS = {
    "ms": 0.001, "millisecond": 0.001, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_UNIT = r"(?:ms|milliseconds?|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?|w(?:eeks?)?)(?![a-z])"
_PIECE = rf"(?:\d{{1,9}}(?:\.\d+)?|an?(?=\s))\s*{_UNIT}"
_LENGTH = rf"(?:(?:about|less than|approximately|up to|another|~)\s*)?({_PIECE}(?:[\s,]*(?:and\s+)?{_PIECE})*)"

_EPOCH = re.compile(
    r"(?:limit reached\s*\|\s*|(?:resets?|retry)[ _-]?(?:at|time|after)?[\"']?\s*[:=|]?\s*[\"']?)(\d{10}|\d{13})\b",
    re.IGNORECASE,
)
_SECONDS = re.compile(
    r"(?:resets?|retry)[ _-]?(?:in|after)(?:[ _-]?(?:seconds|secs?|s))?[\"']?\s*[:=]?\s*[\"']?(\d{1,8}(?:\.\d+)?)"
    r"[\"']?\s*(?:$|[,;})\].\s](?!\s*[a-z0-9]))",
    re.IGNORECASE,
)
_MILLI = re.compile(r"retry[ _-]?after[ _-]?ms[\"']?\s*[:=]\s*[\"']?(\d{1,12})\b", re.IGNORECASE)
_AFTER = re.compile(
    rf"(?:again|retry|retries|resets?|retrydelay|wait|available|access|refills?|back)\b[^;\n]{{0,60}}?"
    rf"(?:\b(?:in|after|for|of|wait)\b|[:=]|\bdelay\b)\s*[:=]?\s*[\"']?{_LENGTH}",
    re.IGNORECASE,
)
_WAIT = re.compile(rf"\b(?:wait|delay)[\"']?\s*[:=]?\s*[\"']?{_LENGTH}", re.IGNORECASE)
_HTTP_DATE = re.compile(
    r"retry-after[\"']?\s*[:=]\s*[\"']?(\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d GMT)", re.IGNORECASE
)
_ISO = re.compile(
    r"(?<!\d)(\d{4})-(\d\d)-(\d\d)(?:(?:T|,?\s+(?:at\s+)?)(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?\s*"
    r"(Z|[+-]\d\d:?\d\d|\(?[A-Za-z]+(?:/[A-Za-z_+-]+)*\)?)?)?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NAMED_ZONE = r"\(\s*([A-Za-z]+(?:/[A-Za-z0-9_+\-]+)*|UTC[+-]\d{1,2}(?::?\d\d)?)\s*\)"
_ZONE = rf"(?:[\s,]*(?:{_NAMED_ZONE}|\b(UTC|GMT|[PMCE][SD]?T|CES?T|[A-Z][a-z]+(?:/[A-Z][A-Za-z_]+)+)\b))?"
_CLOCK = r"(?:(\d{1,2})(?::(\d\d)(?::\d\d)?)?\s*([ap])\.?m\b\.?|(\d{1,2}):(\d\d)(?::\d\d)?)"
_LIFTED = r"(?:resets?|again|available|access|until|renews?|back|lifted|refreshe?s?)\b"
_AT = re.compile(
    rf"{_LIFTED}[^;\n]{{0,40}}?"
    rf"(?:\b(?P<day>mon|tue|wed|thu|fri|sat|sun)[a-z]*\b[\s,]*|\b(?P<tomorrow>tomorrow)\b[\s,]*)?"
    rf"(?:\b(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?\s+(?P<date>\d{{1,2}})(?:st|nd|rd|th)?\b[\s,]*(?:(?P<year>\d{{4}})\b[\s,]*)?)?"
    rf"(?:at\s+)?{_CLOCK}{_ZONE}",
    re.IGNORECASE,
)
_ON = re.compile(
    rf"{_LIFTED}[^;\n]{{0,40}}?\b(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?\s+(?P<date>\d{{1,2}})(?:st|nd|rd|th)?\b"
    rf"(?:[\s,]*(?P<year>\d{{4}})\b)?{_ZONE}",
    re.IGNORECASE,
)
_A_MONTH = rf"(?:{'|'.join(_MONTHS)})[a-z]*"
_A_CLOCK = r"\d{1,2}(?::\d\d)?\s*[ap]\.?m\b\.?|\d{1,2}:\d\d"
_REWRITES = (
    (re.compile(r"\bmidnight\b", re.IGNORECASE), "12am"),
    (re.compile(r"\bnoon\b", re.IGNORECASE), "12pm"),
    (re.compile(rf"(?<![:\d])(\d{{1,2}})(?:st|nd|rd|th)?\s+({_A_MONTH})\b", re.IGNORECASE), r"\2 \1"),
    (re.compile(rf"({_A_CLOCK})\s+on\s+({_A_MONTH}\.?\s+\d{{1,2}})\b", re.IGNORECASE), r"\2 \1"),
)
"""Other notations of dates and times, and their replacements."""

_SHORT_ZONES = {
    "pt": "America/Los_Angeles", "pst": "America/Los_Angeles", "pdt": "America/Los_Angeles",
    "mt": "America/Denver", "mst": "America/Denver", "mdt": "America/Denver",
    "ct": "America/Chicago", "cst": "America/Chicago", "cdt": "America/Chicago",
    "et": "America/New_York", "est": "America/New_York", "edt": "America/New_York",
    "cet": "Europe/Berlin", "cest": "Europe/Berlin",
}  # fmt: skip
_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d\d)?", re.IGNORECASE)


def parse_reset(words: str, *, now: datetime, local: tzinfo = UTC) -> datetime | None:
    """Return the reset time in *words*, in UTC, or None when they contain no plausible one.

    *local*: the zone of times without one, which is that of the machine where the program ran.
    """
    for read in (_as_epoch, _as_http_date, _as_length, _as_date, _as_clock):
        with contextlib.suppress(ValueError, OverflowError):
            moment = read(words, now, local)
            if moment is not None:
                return plausible_reset(moment, now=now)
    return None


def plausible_reset(moment: datetime | None, *, now: datetime) -> datetime | None:
    """Return *moment* in UTC if it can be the reset of a limit: at most a day ago, at most LONGEST ahead."""
    if moment is None or not now - timedelta(days=1) <= moment <= now + LONGEST:
        return None
    return moment.astimezone(UTC)


def from_epoch(value: object) -> datetime | None:
    """Return the moment of a number of seconds or milliseconds since 1970, or None for other values."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
        value = int(value)
    try:
        number = float(value) if not isinstance(value, bool | str) else math.nan  # type: ignore[arg-type]
        return datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS else number, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _as_epoch(words: str, _now: datetime, _local: tzinfo) -> datetime | None:
    match = _EPOCH.search(words)
    return from_epoch(match[1]) if match else None


def _as_http_date(words: str, _now: datetime, _local: tzinfo) -> datetime | None:
    match = _HTTP_DATE.search(words)
    return parsedate_to_datetime(match[1]) if match else None


def _as_length(words: str, now: datetime, _local: tzinfo) -> datetime | None:
    if match := _MILLI.search(words):
        return now + timedelta(milliseconds=int(match[1]))
    if match := _SECONDS.search(words):
        return now + timedelta(seconds=float(match[1]))
    match = _AFTER.search(words) or _WAIT.search(words)
    return now + timedelta(seconds=_seconds(match[1])) if match else None


def _seconds(text: str) -> float:
    total = 0.0
    for piece in re.finditer(rf"(\d+(?:\.\d+)?|\ban?(?=\s))\s*({_UNIT})", text, re.IGNORECASE):
        unit = piece[2].lower()
        length = _UNITS.get(unit) or _UNITS[unit.removesuffix("s")]
        total += (1.0 if piece[1].lower().startswith("a") else float(piece[1])) * length
    return total


def _as_date(words: str, _now: datetime, local: tzinfo) -> datetime | None:
    match = _ISO.search(words)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    return datetime(year, month, day, hour, minute, second, tzinfo=_zone(match[7], local if match[4] else UTC))


def _as_clock(words: str, now: datetime, local: tzinfo) -> datetime | None:
    for notation, replacement in _REWRITES:
        words = notation.sub(replacement, words)
    match = _AT.search(words)
    if match is None:
        match = _ON.search(words)
        if match is None:
            return None
        zone = _zone(match[4] or match[5], local)
        return _dated(now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0), match, now)
    hour, minute, half, hour_24, minute_24, zone_name, short = match.groups()[5:]
    hours = int(hour_24) if hour is None else int(hour) % 12 + (12 if half.lower() == "p" else 0)
    zone = _zone(zone_name or short, local)
    here = now.astimezone(zone)
    at = here.replace(hour=hours, minute=int((minute_24 if hour is None else minute) or 0), second=0, microsecond=0)
    if match["month"]:
        return _dated(at, match, now)
    if match["day"]:
        at += timedelta(days=(_DAYS.index(match["day"].lower()) - at.weekday()) % 7)
        return at if at >= now - _JUST_NOW else at + timedelta(days=7)
    if match["tomorrow"]:
        return at + timedelta(days=1)
    return at if at >= now - _JUST_NOW else at + timedelta(days=1)


def _dated(at: datetime, match: re.Match[str], now: datetime) -> datetime:
    month, date = _MONTHS.index(match["month"].lower()) + 1, int(match["date"])
    if match["year"]:
        return at.replace(year=int(match["year"]), month=month, day=date)
    this_year = at.replace(month=month, day=date)
    return this_year if this_year >= now - timedelta(days=1) else this_year.replace(year=this_year.year + 1)


def _zone(name: str | None, local: tzinfo) -> tzinfo:
    if not name:
        return local
    name = name.strip("()")
    if name.lower() in ("z", "utc", "gmt"):
        return UTC
    if offset := _OFFSET.fullmatch(name):
        ahead = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        return timezone(ahead if offset[1] == "+" else -ahead)
    with contextlib.suppress(OSError, ValueError, KeyError):  # unknown zone, or no zone data on this machine
        return ZoneInfo(_SHORT_ZONES.get(name.lower(), name))
    return local
