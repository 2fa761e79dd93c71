"""A connected piece of the graph that one thread runs before it writes: short tasks on the heels of what they needed.

Nobody else can claim them meanwhile, because what they need is held here and not completed in the store. All of it is
written at once, soon; a crash before that makes all of it run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from coordination.domain.attempts import Claim
from coordination.domain.task_options import alone
from coordination.store.queries.lookahead import Ahead


class Piece:
    """What may follow some claims. Used by one thread; its length is how many tasks that are."""

    def __init__(
        self,
        held: Sequence[Claim],
        ahead: Iterable[Ahead],
        *,
        expected: Callable[[str], float | None],
        most: float = float("inf"),
    ) -> None:
        """*expected*: how long a job of a kind takes (seconds), None when it is not known to be short.

        Jobs of *most* seconds in all, those that are nearest: others, with free slots, would have to wait for them.
        """
        inside = {claim.task_id for claim in held}
        waiting: list[Ahead] = []
        for one in ahead:
            seconds = expected(one.kind)
            if seconds is None or alone(one.options):
                continue
            most -= seconds
            if most < 0:
                break
            waiting.append(one)
        self._ahead: dict[str, Ahead] = {}
        # Only what needs nothing from outside; what lies behind something that does drops out in the next round.
        known = inside | {one.task_id for one in waiting}
        while waiting:
            fitting = [one for one in waiting if all(parent in known for parent in one.parents)]
            if len(fitting) == len(waiting):
                break
            known = inside | {one.task_id for one in fitting}
            waiting = fitting
        self._children: dict[str, list[str]] = {}
        self._left: dict[str, int] = {}
        for one in waiting:
            self._ahead[one.task_id] = one
            self._left[one.task_id] = len(one.parents)
            for parent in one.parents:
                self._children.setdefault(parent, []).append(one.task_id)
        self._results: dict[str, tuple[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._ahead)

    def completed(self, claim: Claim, output: Any) -> list[Claim]:
        """One of the piece's tasks completed: what nothing holds any more, with the results that it needs."""
        children = self._children.pop(claim.task_id, None)
        if not children:
            return []
        self._results[claim.task_id] = (claim.key, output)
        ready = []
        for child in children:
            self._left[child] -= 1
            if not self._left[child]:
                one = self._ahead[child]
                found = (self._results[parent] for parent in one.parents)
                ready.append(one.claim({key: {"state": "completed", "output": value} for key, value in found}))
        return ready

    def pending(self, claim: Claim) -> int:
        """How many tasks it needed."""
        return len(self._ahead[claim.task_id].parents)
