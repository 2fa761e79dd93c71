"""Which fault when, drawn from the seed: storms in which faults overlap, then single ones in the quiet between them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.faults import KINDS, Fault
from tests.chaos.stack import Stack

STORM = 75.0
"""Seconds of a storm."""

ALONE = 2
"""Single faults after each storm."""

RATE = 12.0
"""Faults drawn a second in a storm; some find nothing to hit."""


@dataclass(frozen=True, slots=True)
class Due:
    """A fault of a storm, and how many seconds after the storm's beginning it is due."""

    after: float
    fault: Fault


class Schedule:
    """Draws faults; the same seed and the same kinds give the same ones."""

    def __init__(self, seed: int, kinds: Sequence[type[Fault]], *, rate: float = RATE) -> None:
        self._choice = random.Random(seed)  # noqa: S311 - reproducible by its seed
        self._kinds = kinds
        self._rate = rate
        self._turns = self._in_turn()

    def storm(self, seconds: float = STORM) -> Iterator[Due]:
        """Return faults in the order in which they are due."""
        at, last = 0.0, dict.fromkeys(self._kinds, float("-inf"))
        # A kind that may come once a minute comes in one storm of two.
        here = [kind for kind in self._kinds if self._choice.random() < STORM / max(STORM, kind.gap)]
        while (at := at + self._choice.expovariate(self._rate)) < seconds:
            ready = [kind for kind in here if at - last[kind] >= kind.gap]
            if ready:
                (kind,) = self._choice.choices(ready, [kind.weight for kind in ready])
                last[kind] = at
                yield Due(at, kind(self._choice))

    def alone(self) -> Fault:
        """Return the next single fault; all kinds take turns."""
        return next(self._turns)(self._choice)

    def _in_turn(self) -> Iterator[type[Fault]]:
        while True:
            yield from self._choice.sample(list(self._kinds), len(self._kinds))


def kinds_for(stack: Stack, names: Sequence[str] | None, *, seconds: float) -> list[type[Fault]]:
    """Return the kinds that this stack can have, of those requested (parts of names); ValueError for an unknown one.

    None that lasts longer than the whole run of so many *seconds*.
    """
    chosen: list[type[Fault]] = []
    for name in names or [""]:
        matches = [kind for kind_name, kind in KINDS.items() if name.lower() in kind_name.lower()]
        if not matches:
            raise ValueError(f"There is no fault {name!r}; there are: {', '.join(KINDS)}")
        chosen += [kind for kind in matches if kind not in chosen]
    return [kind for kind in chosen if kind.possible(stack) and kind.lasts[1] <= seconds]
