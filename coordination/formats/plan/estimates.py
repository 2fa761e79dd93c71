"""What a task is expected to use, in a plan file, read and written. What it may be, domain/estimates says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from coordination.base.durations import write_duration
from coordination.base.errors import Refused
from coordination.domain.money.estimates import STATED_KEYS, parse_stated
from coordination.formats.plan.fields import Fields


def read_estimate(fields: Fields) -> dict[str, Any]:
    """The field ``estimate``: dollars, tokens, duration."""
    inner = fields.inner("estimate")
    if inner is None:
        return {}
    inner.only(STATED_KEYS)
    written = {"usd": inner.money("usd"), "tokens": inner.whole("tokens"), "duration": inner.duration("duration")}
    try:
        return parse_stated(written)
    except Refused as refused:
        raise fields.error("estimate", refused.message, hint=refused.hint, field=refused.field) from None


def write_estimate(stated: Mapping[str, Any]) -> dict[str, Any]:
    """As a plan file says it."""
    written = parse_stated(stated)
    if "usd" in written:
        written["usd"] = number_or_text(Decimal(written["usd"]))
    if "duration" in written:
        written["duration"] = write_duration(timedelta(seconds=written["duration"]))
    return written


def number_or_text(amount: Decimal) -> float | int | str:
    """An amount as a number where a reader gets the same amount from it, otherwise as a text."""
    if amount == amount.to_integral_value():
        return int(amount)
    return float(amount) if Decimal(repr(float(amount))) == amount else f"{amount:f}"
