"""What somebody buys."""

from dataclasses import dataclass, field


@dataclass
class Basket:
    """Items with their prices in cents."""

    items: list[tuple[str, int]] = field(default_factory=list)

    def add(self, name: str, cents: int, count: int = 1) -> None:
        """Put *count* of them into it; ValueError for less than one."""
        if count < 0:
            raise ValueError("add at least one")
        self.items += [(name, cents)] * count

    def total(self, discount: int = 0) -> int:
        """The sum in cents, less *discount* per cent, rounded to the customer's favour."""
        whole = sum(cents for _, cents in self.items)
        return round(whole * (100 - discount) / 100)
