"""What the customer takes home."""

from till.basket import Basket
from till.prices import show


def lines(basket: Basket) -> list[str]:
    """One line for each kind of item, in the order in which they were first bought, and the total."""
    counted: dict[str, int] = {}
    for name, cents in basket.items:
        counted[name] = cents
    written = [f"{name}  {show(cents)}" for name, cents in counted.items()]
    return [*written, f"total  {show(basket.total())}"]
