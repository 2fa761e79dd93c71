"""The ``budget`` of a plan and of a task: read, written, and as a schema."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.money.budgets import WARN_AT, ExceededAction
from coordination.domain.money.caps import KEYS, MAX_TOKENS, caps_of
from coordination.domain.plans.plans import BudgetCap
from coordination.formats.plan.fields import Fields


def read_budget(fields: Fields) -> BudgetCap | None:
    """The budget of the plan or task that *fields* are of."""
    inner = fields.inner("budget")
    if inner is None:
        return None
    inner.only(KEYS)
    cap = BudgetCap(
        usd=inner.money("usd"),
        on_exceed=inner.text("on_exceed") or ExceededAction.BLOCK.value,
        tokens=inner.whole("tokens"),
        starts=inner.whole("starts"),
        max_unpriced_calls=inner.whole("max_unpriced_calls"),
        warn_at=WARN_AT if (warn_at := inner.whole("warn_at")) is None else warn_at,
        downgrade_to=inner.text("downgrade_to"),
    )
    try:
        caps_of(cap.said())
    except Refused as refusal:
        raise fields.caused("budget", refusal) from None
    return cap


def write_budget(cap: BudgetCap | None) -> dict[str, Any] | None:
    """The same as it is written."""
    if cap is None:
        return None
    body = cap.said()
    if cap.usd is not None:
        body["usd"] = amount(cap.usd)
    if cap.warn_at == WARN_AT:
        del body["warn_at"]
    return body


def amount(of: Decimal) -> float | int | str:
    """As a number where a reader gets the same amount from it, otherwise as a text."""
    if of == of.to_integral_value():
        return int(of)
    return float(of) if Decimal(repr(float(of))) == of else f"{of:f}"


def budget_schema(whose: str) -> dict[str, Any]:
    """Its properties, for editors."""
    count = {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_TOKENS}
    return {
        "usd": {"type": ["number", "string", "null"], "minimum": 0, "description": f"US dollars for {whose}."},
        "tokens": {**count, "description": f"Tokens for {whose}."},
        "starts": {**count, "description": f"Starts of agents and chats for {whose}, whatever they end as."},
        "max_unpriced_calls": {**count, "description": "Calls of models whose price is unknown; 0 if usd is given."},
        "on_exceed": {"enum": [*ExceededAction, None]},
        "warn_at": {"type": ["integer", "null"], "minimum": 1, "maximum": 100, "description": "Percent of the cap."},
        "downgrade_to": {"type": ["string", "null"], "description": "The cheaper model, for on_exceed: downgrade."},
    }
