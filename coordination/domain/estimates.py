"""What a job is expected to cost."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from coordination.money import ZERO


@dataclass(frozen=True, slots=True)
class Estimate:
    """Dollars, tokens and calls without a price that a job may come to. *source*: how that is known."""

    usd: Decimal = ZERO
    tokens: int = 0
    unpriced: int = 0
    source: str = "none"
