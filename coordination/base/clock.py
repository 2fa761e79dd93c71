"""The current time, and days and months of a time zone."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from coordination.base.errors import Refused

DEFAULT_ZONE = "UTC"
_HOUR = timedelta(hours=1)


def utc_now() -> datetime:
    """Return this machine's time, aware, in UTC: to show ages and name files, not to judge leases."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Return the seconds of a clock that is never set back, to measure waits."""
    return time.monotonic()


def check_zone(name: str) -> str:
    """Return *name* if it is an IANA time zone; else raise Refused."""
    if name == DEFAULT_ZONE:
        return name
    zones = available_timezones()
    if name in zones:
        return name
    if not zones:
        raise Refused("This machine has no time zone data", hint="Run: pip install tzdata")
    folded = {zone.casefold(): zone for zone in zones}
    closest = folded.get(name.casefold()) or next((zone for zone in sorted(zones) if _last(zone) == _last(name)), None)
    hint = f"Did you mean {closest}?" if closest else "Write it like Europe/Berlin or America/New_York"
    raise Refused(f"{name[:80]!r} is not a time zone", hint=hint)


def day_of(moment: datetime, zone: str) -> str:
    """Return the day of a moment in a zone, as 2027-01-31."""
    moment = moment.astimezone(UTC)
    offset = _offset_within(moment.replace(minute=0, second=0, microsecond=0), zone)
    try:
        local = moment.astimezone(_zone(zone)) if offset is None else moment + offset
    except OverflowError:  # at either end of the calendar
        local = moment
    return local.date().isoformat()


def month_of(day: str) -> str:
    """Return the first day of the month of *day*."""
    return f"{day[:-3]}-01"


def day_start(day: date, zone: str) -> datetime:
    """Return the moment at which a day begins in a zone: midnight, or the end of a clock change that skips it."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=_zone(zone))
    # A skipped midnight gets the offset before the change, which is the first moment after it.
    return midnight.astimezone(UTC)


@lru_cache(maxsize=4096)
def _offset_within(hour: datetime, zone: str) -> timedelta | None:
    """Return the UTC offset during a whole hour (in UTC); None when it changes within the hour, or is unknown."""
    try:
        first, last = (moment.astimezone(_zone(zone)).utcoffset() for moment in (hour, hour + _HOUR))
    except OverflowError:
        return None
    return first if first == last else None


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    return UTC if name == DEFAULT_ZONE else ZoneInfo(name)


def _last(name: str) -> str:
    return name.rpartition("/")[2].casefold().replace(" ", "_")
