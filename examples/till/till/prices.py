"""Prices as people write them, in cents."""


def parse(text: str) -> int:
    """``"3"``, ``"3.5"``, ``"3.50"`` and ``"3,50"`` in cents; ValueError for what is no price."""
    euros, _, cents = text.strip().partition(".")
    if not euros.isdigit() or (cents and not cents.isdigit()) or len(cents) > 2:
        raise ValueError(f"{text!r} is no price")
    return int(euros) * 100 + int(cents or 0)


def show(cents: int) -> str:
    """``"3.50"``."""
    return f"{cents // 100}.{cents % 100:02}"
