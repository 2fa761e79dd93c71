"""The effects of ending attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.store.queries.tasks.completions import ReleasedTask


@dataclass(slots=True)
class EndEffects:
    """The effects of ending the attempts ``ends``. Services and listeners add to them; dispatch reads them.

    ``fences``: the attempts whose fence was valid. ``already_recorded``: tasks whose end an earlier commit wrote whose
    answer was lost. ``freed``: tasks that became ready; ``released``: those that completions made ready, best first.
    ``to_settle``: attempts whose reservations are to be settled. ``runs_to_check``: runs in which a task ended.
    ``retry_in``: the delay until a task may be retried. ``newly_ready``: the number of tasks that became ready through
    questions, answers and discovered tasks. ``money_returned``: reserved money came back, and tasks wait for money.
    """

    ends: Sequence[EndedAttempt] = ()
    fences: set[tuple[str, int]] = field(default_factory=set)
    already_recorded: set[str] = field(default_factory=set)
    freed: list[str] = field(default_factory=list)
    released: list[ReleasedTask] = field(default_factory=list)
    closed_runs: list[str] = field(default_factory=list)
    continuing_runs: set[str] = field(default_factory=set)
    maybe_done_runs: set[str] = field(default_factory=set)
    runs_to_check: set[str] = field(default_factory=set)
    to_settle: set[tuple[str, int]] = field(default_factory=set)
    retry_in: dict[str, timedelta] = field(default_factory=dict)
    newly_ready: int = 0
    money_returned: bool = False

    @property
    def moved_tasks(self) -> set[str]:
        """Return the tasks whose ended attempt had a valid fence."""
        return {task_id for task_id, _ in self.fences}

    def effective_ends(self) -> list[EndedAttempt]:
        """Return the ended attempts whose fence was valid."""
        return [ended for ended in self.ends if ended.fence in self.fences]
