"""What one attempt changes in its worktree: committed, checked, and then merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.runners.process_watch import Interruption
from workers.workspaces.git import GitInterrupted
from workers.workspaces.preparation import PreparedWorktree
from workers.workspaces.worktree import Worktree

Check = Callable[[AttemptEnd], AttemptEnd]
"""Judges what the worktree holds: returns the result, failed if it must not be merged."""


@dataclass(slots=True)
class Change:
    """The change of one attempt.

    ``result``: the attempt's result so far; one that is set from the start takes the place of the job.
    ``is_retold``: that result is an earlier attempt's, with its artifacts. ``commit``: what waits to be merged.
    ``briefing``: text for the end of the agent's prompt. ``was_tested``: an earlier attempt ran the checks.
    ``rejection``: the result of a check that did not pass. ``saves_work``: whether the next attempt of an agent goes on
    with what is in the folder.
    """

    place: Worktree
    ready: PreparedWorktree
    merges: str | None = None  # the commit that the job is to merge
    briefing: str = ""
    result: AttemptEnd | None = None
    is_retold: bool = False
    commit: str | None = None
    was_tested: bool = False
    tested: bool = False
    rejection: AttemptEnd | None = None
    saves_work: bool = True
    _checks: list[Check] = field(default_factory=list)

    def check(self, check: Check, result: AttemptEnd) -> AttemptEnd:
        """Return *result* after *check*, which also has to pass on the merged files if these differ."""
        self._checks.append(check)
        if self.was_tested:
            return result
        if self.commit is not None:
            self.place.detach(self.commit)
        self.tested = False
        checked = self.result = check(result)
        self.tested = checked.outcome is Outcome.COMPLETED
        if checked.outcome is Outcome.FAILED:
            self.rejection = checked
        return checked

    def passes_again(self) -> bool:
        """Run all checks on the merged files; return whether they passed. Raises Interrupted."""
        assert self.result is not None  # noqa: S101 - there is nothing to merge without one
        for check in self._checks:
            checked = check(self.result)
            self.result = replace(self.result, log=checked.log, usage=checked.usage)
            if checked.outcome is Outcome.FAILED:
                self.rejection = checked
                return False
            if checked.outcome is not Outcome.COMPLETED:
                raise GitInterrupted(Interruption(checked.outcome, checked.error or ""))
        return True
