"""Spending of today and this month, its burn rate, and the forecast for the month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection, select

from coordination.base.clock import day_start
from coordination.base.money import ZERO
from coordination.domain.forecast.forecasts import WINDOW, BurnRate, Forecast, burn_rate, forecast
from coordination.domain.money.date_ranges import DateRange
from coordination.store.queries.money import rollups
from coordination.store.reports.money.spending import spending, total
from coordination.store.types import db_now

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SpendingOutlook:
    """Spending at this moment, in the workspace's time zone. ``forecast`` None: too few whole days."""

    zone: str
    day: date
    spent_today_usd: Decimal
    spent_month_usd: Decimal
    unpriced_month: int
    burn: BurnRate
    forecast: Forecast | None


def outlook(tx: Connection, workspace_id: str, *, project_id: str | None = None) -> SpendingOutlook:
    """Return the outlook of the workspace or one of its projects, by the database's clock."""
    now: datetime = tx.execute(select(db_now())).scalar_one()
    zone = rollups.read_zone(tx, workspace_id)
    day = date.fromisoformat(rollups.days(tx, workspace_id, [now])[now])
    opens, closes = day_start(day, zone), day_start(day + _DAY, zone)
    today, _, _ = total(tx, workspace_id, project_id=project_id, span=DateRange(day, day))
    month, _, unpriced = total(tx, workspace_id, project_id=project_id, span=DateRange(day.replace(day=1), day))
    daily = _daily(tx, workspace_id, project_id, day)
    left = (closes - now) / (closes - opens)
    return SpendingOutlook(
        zone=zone,
        day=day,
        spent_today_usd=today,
        spent_month_usd=month,
        unpriced_month=unpriced,
        burn=burn_rate(daily, spent_today=today, hours_today=(now - opens) / _HOUR),
        forecast=forecast(daily, today=day, spent=month, left=left),
    )


def _daily(tx: Connection, workspace_id: str, project_id: str | None, today: date) -> list[Decimal]:
    """Return the cost of each whole day of the window, from the first day with a record on."""
    first = today - timedelta(days=WINDOW)
    groups = spending(tx, workspace_id, by="day", project_id=project_id, span=DateRange(first, today - _DAY))
    spent = {group.key: group.cost_usd for group in groups}
    _, earlier, _ = total(tx, workspace_id, project_id=project_id, span=DateRange(last=first - _DAY))
    if not earlier:
        if not spent:
            return []
        first = date.fromisoformat(str(min(filter(None, spent))))
    return [spent.get((first + timedelta(days=ago)).isoformat(), ZERO) for ago in range((today - first).days)]
