"""Stretches of time as people name them: months and days in the workspace's zone, or moments. Pure."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from coordination.base.calendars import day_start
from coordination.base.errors import Refused
from coordination.domain.money.cost_totals import DAY, MONTH

_ONE = timedelta(days=1)
_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DateRange:
    """From ``first`` to ``last``, both days included; from the moment ``since`` until before ``until``. None: open."""

    first: date | None = None
    last: date | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def of_days(self) -> bool:
        """Whether it is made of whole days."""
        return self.since is None and self.until is None

    def moments(self, zone: str) -> tuple[datetime | None, datetime | None]:
        """From which moment on, and until before which, with the days of that zone."""
        since, until = self.since, self.until
        if self.first is not None:
            since = day_start(self.first, zone)
        if self.last is not None and self.last < date.max:
            until = day_start(self.last + _ONE, zone)
        return since, until

    def parts(self) -> list[tuple[str, date | None, date | None]]:
        """(grain, first, last): as many whole months as there are, and the days before and after them."""
        opens = self.first if self.first is None or self.first.day == 1 else _month_after(self.first)
        closes = self.last if self.last is None or self.last == _month_end(self.last) else _month_before(self.last)
        if opens is not None and closes is not None and opens > closes:
            return [(DAY, self.first, self.last)]
        found: list[tuple[str, date | None, date | None]] = [(MONTH, opens, closes)]
        if self.first is not None and opens is not None and opens != self.first:
            found.append((DAY, self.first, opens - _ONE))
        if self.last is not None and closes is not None and closes != self.last:
            found.append((DAY, closes + _ONE, self.last))
        return found


def span(since: str | date | None = None, until: str | date | None = None) -> DateRange:
    """The span between two months, days or moments, as text or as what they are; Refused for what is none.

    *until* is included where it is a month or a day, and is where it ends where it is a moment.
    """
    begin, end = _named(since), _named(until)
    found = DateRange(
        first=None if begin is None or isinstance(begin, datetime) else begin[0],
        last=None if end is None or isinstance(end, datetime) else end[1],
        since=begin if isinstance(begin, datetime) else None,
        until=end if isinstance(end, datetime) else None,
    )
    earliest, latest = found.moments("UTC")
    mixed = not found.of_days and (found.first or found.last) is not None
    unsure = _ONE if mixed else timedelta(0)  # where the days begin is the workspace's to say
    if earliest is not None and latest is not None and latest <= earliest - unsure:
        raise Refused(f"{until} is before {since}", hint="--since comes first" if isinstance(since, str) else None)
    return found


def _named(value: str | date | None) -> tuple[date, date] | datetime | None:
    """The first and the last day of what is named, or the moment."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return _aware(value)
    if isinstance(value, date):
        return value, value
    try:
        if _MONTH.fullmatch(value):
            first = date.fromisoformat(f"{value}-01")
            return first, _month_end(first)
        if _DAY.fullmatch(value):
            day = date.fromisoformat(value)
            return day, day
        return _aware(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        raise Refused(
            f"{value[:60]!r} is no month, day or time",
            hint="Write it like today, monday, 7d, 2027-01, 2027-01-31 or 2027-01-31T12:00:00Z",
        ) from None


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _month_end(day: date) -> date:
    return day.replace(day=monthrange(day.year, day.month)[1])


def _month_after(day: date) -> date:
    """The first day of the next month, or the last there is."""
    end = _month_end(day)
    return date.max if end == date.max else end + _ONE


def _month_before(day: date) -> date:
    """The last day of the month before."""
    first = day.replace(day=1)
    return first if first == date.min else first - _ONE
