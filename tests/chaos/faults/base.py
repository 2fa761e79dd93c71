"""The base of faults: drawn from the seed, injected once, healed after a time."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from tests.chaos.stack import Stack, Worker

Later = Callable[[float, Callable[[], None]], None]


@dataclass(slots=True)
class Hit:
    """The result of an injection. ``victims``: processes whose jobs must run again; ``heal`` undoes it."""

    what: str
    victims: set[int] = field(default_factory=set)
    heal: Callable[[], None] | None = None


class Fault(ABC):
    """One fault. Drawing happens in ``__init__``, so that a seed gives the same faults whatever the stack does.

    ``weight``: how often it comes; ``gap``: seconds between two of a kind at least; ``lasts``: seconds from, to.
    """

    name: ClassVar[str]
    weight: ClassVar[float] = 1.0
    gap: ClassVar[float] = 0.0
    lasts: ClassVar[tuple[float, float]] = (0.0, 0.0)
    broad: ClassVar[bool] = False  # no lost attempt can be recovered while it lasts

    def __init__(self, choice: random.Random) -> None:
        self.duration = choice.uniform(*self.lasts)
        self.number = choice.randrange(1 << 30)
        self.chance = choice.random()

    @classmethod
    def possible(cls, stack: Stack) -> bool:  # noqa: ARG003 - for subclasses that use it
        """Return whether this stack can have it at all."""
        return True

    @abstractmethod
    def inject(self, stack: Stack, later: Later) -> Hit | None:
        """Inject it; None when there is no target now. Delayed actions go to *later*."""

    def worker(self, stack: Stack) -> Worker | None:
        """Return the target worker: one that lives and is not stopped, when there is one."""
        living = [worker for worker in stack.workers if worker.pid is not None and not worker.paused]
        return living[self.number % len(living)] if living else None
