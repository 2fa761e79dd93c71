"""Ranges of time between months, days of the workspace's time zone, or moments."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from coordination.base.clock import day_start
from coordination.base.errors import Refused
from coordination.domain.money.cost_totals import DAY, MONTH

_DAY_LENGTH = timedelta(days=1)
_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DateRange:
    """The days ``first`` to ``last``, both included, or the moments from ``since`` to before ``until``. None: open."""

    first: date | None = None
    last: date | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def of_days(self) -> bool:
        """Return whether the range consists of whole days."""
        return self.since is None and self.until is None

    def moments(self, zone: str) -> tuple[datetime | None, datetime | None]:
        """Return the first moment and the one after the last, with the days of that time zone."""
        since, until = self.since, self.until
        if self.first is not None:
            since = day_start(self.first, zone)
        if self.last is not None and self.last < date.max:
            until = day_start(self.last + _DAY_LENGTH, zone)
        return since, until

    def parts(self) -> list[tuple[str, date | None, date | None]]:
        """Return (grain, first, last) of the whole months, and of the days before and after them."""
        opens = self.first if self.first is None or self.first.day == 1 else _month_after(self.first)
        closes = self.last if self.last is None or self.last == _month_end(self.last) else _month_before(self.last)
        if opens is not None and closes is not None and opens > closes:
            return [(DAY, self.first, self.last)]
        parts: list[tuple[str, date | None, date | None]] = [(MONTH, opens, closes)]
        if self.first is not None and opens is not None and opens != self.first:
            parts.append((DAY, self.first, opens - _DAY_LENGTH))
        if self.last is not None and closes is not None and closes != self.last:
            parts.append((DAY, closes + _DAY_LENGTH, self.last))
        return parts


def parse_date_range(since: str | date | None = None, until: str | date | None = None) -> DateRange:
    """Return the range between two months, days or moments, given as text or dates. Raises Refused for invalid ones.

    A month or day of *until* is included; a moment is not.
    """
    begin, end = _parse(since), _parse(until)
    span = DateRange(
        first=None if begin is None or isinstance(begin, datetime) else begin[0],
        last=None if end is None or isinstance(end, datetime) else end[1],
        since=begin if isinstance(begin, datetime) else None,
        until=end if isinstance(end, datetime) else None,
    )
    earliest, latest = span.moments("UTC")
    mixed = not span.of_days and (span.first or span.last) is not None
    tolerance = _DAY_LENGTH if mixed else timedelta(0)  # the time zone of the days is not known here
    if earliest is not None and latest is not None and latest <= earliest - tolerance:
        raise Refused(f"{until} is before {since}", hint="--since comes first" if isinstance(since, str) else None)
    return span


def _parse(value: str | date | None) -> tuple[date, date] | datetime | None:
    """Return the first and last day of a month or day, or the moment."""
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
        hint = "Write it like today, monday, 7d, 2027-01, 2027-01-31 or 2027-01-31T12:00:00Z"
        raise Refused(f"{value[:60]!r} is not a month, day or time", hint=hint) from None


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _month_end(day: date) -> date:
    return day.replace(day=monthrange(day.year, day.month)[1])


def _month_after(day: date) -> date:
    """Return the first day of the next month, or the last possible date."""
    end = _month_end(day)
    return date.max if end == date.max else end + _DAY_LENGTH


def _month_before(day: date) -> date:
    """Return the last day of the month before."""
    first = day.replace(day=1)
    return first if first == date.min else first - _DAY_LENGTH
