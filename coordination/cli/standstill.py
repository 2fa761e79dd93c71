"""A run of which all that is open waits for money or for a person: what to say, and what a person can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordination.clock import monotonic
from coordination.domain.excerpts import many
from coordination.domain.tasks import FOR_A_PERSON, TaskState
from coordination.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from coordination.client import Run
    from coordination.domain.runs import Run as RunRecord

_EVERY = 2.0
_MOST_BUDGETS = 3
_MOST_NAMED = 3


class Standstill:
    """Looks whether a run stands still for want of money or of a word; seldom, because it mostly does not."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._words: str | None = None
        self._told: str | None = None
        self._next_look = 0.0

    def words(self, record: RunRecord) -> str | None:
        """Why nothing goes on, and what helps; None while something does."""
        counts = record.counts
        if counts.get(TaskState.RUNNING) or counts.get(TaskState.QUEUED) or not counts.get(TaskState.BLOCKED):
            self._words = None
        elif monotonic() >= self._next_look:
            self._next_look = monotonic() + _EVERY
            try:
                self._words = self._look()
            except DatabaseUnavailable:  # whoever follows the run rides that out
                self._words = None
        return self._words

    def news(self, record: RunRecord) -> str | None:
        """The same, where it was not said yet: once for each time that it stands still."""
        words, told = self.words(record), self._told
        self._told = words
        return words if words != told else None

    def _look(self) -> str | None:
        if (stop := self._run.co.stopped(self._run.record.project_id)) is not None:
            return f"{stop.sentence()}: nothing of this run starts. Let it go on with: {stop.command}"
        held = self._run.co.budgets.held(self._run.id)
        if not held:
            return self._for_a_person()
        by_budget = {lack.budget.id: lack for lack in held}
        lines = [f"  {lack.sentence()}. {lack.hint()}" for lack in list(by_budget.values())[:_MOST_BUDGETS]]
        return "\n".join(
            [
                f"{many(len(held), 'task waits', 'tasks wait')} for a budget, and nothing else of this run can go on:",
                *lines,
                "This command waits, and goes on with the run; after Ctrl-C: coord resume " + self._run.id,
            ]
        )

    def _for_a_person(self) -> str | None:
        from coordination.store.queries import ready

        runtime = self._run.co.runtime
        with runtime.store.read() as tx:
            keys = ready.keys_held(tx, runtime.workspace_id, self._run.id, FOR_A_PERSON, most=_MOST_NAMED)
        if not keys:
            return None
        return "\n".join(
            [
                "Nothing of this run goes on until a person says so:",
                *(
                    f"  {key}: see coord explain {key}; then coord tasks retry {key}, or coord tasks cancel {key}"
                    for key in keys
                ),
                "This command waits, and goes on with the run; after Ctrl-C: coord resume " + self._run.id,
            ]
        )
