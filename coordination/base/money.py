"""Money as ``Decimal`` US dollars, exact from the wire to the database; amounts are never floats."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation

from coordination.base.errors import Refused

ZERO = Decimal(0)
_LARGEST = Decimal(10) ** 12
_MAX_PLACES = 30
_SHOWN = 60

# Amounts have at most 13 digits before the point and 30 after it; the default context would round sums to 28 digits.
_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])


def usd(value: str | float | Decimal, *, field: str | None = None) -> Decimal:
    """Return *value* as exact dollars. *field*: the field in refusals.

    A float is read by its shortest decimal form (0.1 is one tenth), as people and JSON files mean it. Raises Refused
    unless it is a finite number of at most a trillion and 30 decimal places.
    """
    if isinstance(value, bool):
        raise Refused(f"{_shown(value)} is not an amount of money", field=field)
    try:
        amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        raise Refused(f"{_shown(value)} is not an amount of money", hint="Write it like 1.25", field=field) from None
    if not amount.is_finite() or amount.copy_abs() > _LARGEST:
        raise Refused(f"{_shown(value)} is not an amount of money that can be stored", field=field)
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _MAX_PLACES:
        raise Refused(f"{_shown(value)} has more than {_MAX_PLACES} decimal places", field=field)
    return amount


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def plus(amount: Decimal, other: Decimal) -> Decimal:
    """Return the exact sum."""
    return _EXACT.add(amount, other)


def minus(amount: Decimal) -> Decimal:
    """Return the exact negation."""
    return _EXACT.minus(amount)


def show_usd(amount: Decimal) -> str:
    """Return an amount for people: cents, or as many digits as a small amount needs."""
    if amount == 0:
        return "$0.00"
    if abs(amount) >= Decimal("0.01"):
        return f"${amount:,.2f}"
    return f"${amount.normalize():f}"
