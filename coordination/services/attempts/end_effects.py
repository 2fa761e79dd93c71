"""What came of ending attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.store.queries.tasks.completions import ReleasedTask


@dataclass(slots=True)
class EndEffects:
    """What ending ``ends`` did, filled in by whoever takes part in it; what follows is chosen from it.

    ``fences``: attempts that still held their task; an old one may report, too. ``recorded_before``: tasks whose end
    was written by a commit whose answer was lost. ``freed``: tasks that nothing holds any more; ``released``: those
    that completions freed, best first. ``closing``: attempts for which money may be reserved. ``retry_in``: when tasks
    may be tried again. ``newly_ready``: how many more tasks can be claimed because of questions, answers and discovered
    tasks. ``money_returned``: reserved money came back, and tasks of the project wait for money.
    """

    ends: Sequence[EndedAttempt] = ()
    fences: set[tuple[str, int]] = field(default_factory=set)
    recorded_before: set[str] = field(default_factory=set)
    freed: list[str] = field(default_factory=list)
    released: list[ReleasedTask] = field(default_factory=list)
    closed_runs: list[str] = field(default_factory=list)
    runs_going_on: set[str] = field(default_factory=set)
    maybe_done_runs: set[str] = field(default_factory=set)
    ended_in: set[str] = field(default_factory=set)
    closing: set[tuple[str, int]] = field(default_factory=set)
    retry_in: dict[str, timedelta] = field(default_factory=dict)
    newly_ready: int = 0
    money_returned: bool = False

    @property
    def held(self) -> set[str]:
        """Return the tasks that were still held by the attempt that ended."""
        return {task_id for task_id, _ in self.fences}

    def counted(self) -> list[EndedAttempt]:
        """Return the ends that count: of attempts that still held their task."""
        return [ended for ended in self.ends if ended.fence in self.fences]
