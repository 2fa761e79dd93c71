"""Reads and checks the caps that a plan, a command or a program states for a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any

from coordination.base.errors import Refused
from coordination.base.money import usd
from coordination.base.wording import excerpt
from coordination.domain.money.budgets import WARN_AT, Budget, ExceededAction


@dataclass(frozen=True, slots=True)
class Caps:
    """The caps and rules of a budget, validated."""

    usd: Decimal | None = None
    tokens: int | None = None
    unpriced_calls: int | None = None
    max_starts: int | None = None
    action: ExceededAction = ExceededAction.BLOCK
    warn_percent: int | None = WARN_AT
    downgrade_to: str | None = None


def with_caps(caps: Caps, budget: Budget) -> Budget:
    """Return *budget* with these caps."""
    return replace(budget, **{field.name: getattr(caps, field.name) for field in fields(caps)})


MAX_TOKENS = 10**15

KEYS = ("usd", "tokens", "starts", "max_unpriced_calls", "on_exceed", "warn_at", "downgrade_to")
"""The fields of a stated budget, in order."""

CAPS = KEYS[:4]
"""The fields of which a budget needs at least one."""


def parse_caps(stated: Mapping[str, Any]) -> Caps:
    """Parse the caps that a plan, a command or a program states in KEYS. Raises Refused.

    A cap in dollars allows no calls of unknown price unless ``max_unpriced_calls`` is given: unknown is not zero.
    """
    for name in stated:
        if name not in KEYS:
            raise Refused(f"A budget has no {excerpt(name)}", hint=f"Its fields: {', '.join(KEYS)}", field=str(name))
    money = stated.get("usd")
    if money is not None:
        money = usd(money, field="usd")
        if money < 0:
            raise Refused(f"A budget cannot be negative: usd is {money}", field="usd")
    tokens = _count(stated, "tokens")
    unpriced = _count(stated, "max_unpriced_calls")
    starts = _count(stated, "starts")
    if money is None and tokens is None and unpriced is None and starts is None:
        raise Refused("A budget has no cap", hint="Write usd: 5.00, tokens: 100000 or starts: 20, or remove it")
    if money is not None and "max_unpriced_calls" not in stated:
        unpriced = 0
    action = _action(stated.get("on_exceed", ExceededAction.BLOCK))
    downgrade_to = stated.get("downgrade_to")
    if (downgrade_to is not None) != (action is ExceededAction.DOWNGRADE):
        raise Refused(
            "downgrade_to and on_exceed: downgrade go together", hint="Name the cheaper model", field="downgrade_to"
        )
    if downgrade_to is not None and (not isinstance(downgrade_to, str) or not downgrade_to.strip()):
        raise Refused("downgrade_to must be the name of a model", field="downgrade_to")
    return Caps(money, tokens, unpriced, starts, action, _percent(stated.get("warn_at", WARN_AT)), downgrade_to)


def _count(stated: Mapping[str, Any], name: str) -> int | None:
    value = stated.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
        raise Refused(
            f"A budget's {name} must be a whole number from 0 to {MAX_TOKENS:,}, not {excerpt(value)}", field=name
        )
    return value


def _action(value: object) -> ExceededAction:
    try:
        return ExceededAction(str(value))
    except ValueError:
        raise Refused(
            f"on_exceed must be one of {', '.join(ExceededAction)}, not {excerpt(value)}", field="on_exceed"
        ) from None


def _percent(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdigit():
        value = int(value[:-1])
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100:  # noqa: PLR2004 - percent
        raise Refused(f"warn_at must be 1 to 100 percent of the cap, not {excerpt(value)}", field="warn_at")
    return value
