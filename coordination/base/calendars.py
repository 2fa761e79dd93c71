"""Days and months of a time zone: where a moment belongs, where a day begins. Pure, but for the machine's zone data."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from coordination.base.errors import Refused

DEFAULT = "UTC"
_HOUR = timedelta(hours=1)


def checked(name: str) -> str:
    """*name*, which must be a time zone as IANA calls it; else Refused."""
    if name == DEFAULT:
        return name
    known = available_timezones()
    if name in known:
        return name
    if not known:
        raise Refused("This machine has no time zone data", hint="Run: pip install tzdata")
    folded = {zone.casefold(): zone for zone in known}
    meant = folded.get(name.casefold()) or next((zone for zone in sorted(known) if _last(zone) == _last(name)), None)
    hint = f"Did you mean {meant}?" if meant else "Write it like Europe/Berlin or America/New_York"
    raise Refused(f"{name[:80]!r} is no time zone", hint=hint)


def day_of(moment: datetime, zone: str) -> str:
    """Its day there, as 2027-01-31."""
    moment = moment.astimezone(UTC)
    offset = _offset_within(moment.replace(minute=0, second=0, microsecond=0), zone)
    try:
        local = moment.astimezone(_zone(zone)) if offset is None else moment + offset
    except OverflowError:  # at either end of the calendar
        local = moment
    return local.date().isoformat()


def month_of(day: str) -> str:
    """The first day of its month."""
    return f"{day[:-3]}-01"


def begins(day: date, zone: str) -> datetime:
    """The moment at which a day begins there: midnight, or what follows it where the clock leaps over it."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=_zone(zone))
    # A midnight that does not exist is read with the offset of before, which is an hour after it, as it happens.
    return midnight.astimezone(UTC)


@lru_cache(maxsize=4096)
def _offset_within(hour: datetime, zone: str) -> timedelta | None:
    """What a whole hour (in UTC) is ahead of UTC there; None when that changes within it, or nobody can tell."""
    try:
        first, last = (moment.astimezone(_zone(zone)).utcoffset() for moment in (hour, hour + _HOUR))
    except OverflowError:
        return None
    return first if first == last else None


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    return UTC if name == DEFAULT else ZoneInfo(name)


def _last(name: str) -> str:
    return name.rpartition("/")[2].casefold().replace(" ", "_")
