"""The change of one attempt in its worktree, which is committed, checked and then merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.runners.program import Interruption
from workers.workspaces.git import GitInterrupted
from workers.workspaces.worktree import Worktree

Check = Callable[[AttemptEnd], AttemptEnd]
"""Checks the files of the worktree; returns the result, failed if they must not be merged."""


@dataclass(slots=True)
class Change:
    """The change of one attempt.

    ``result``: the attempt's result so far; if set from the start, the job is not run. ``is_earlier_result``: it is of
    an earlier attempt and has artifacts. ``merges``: the commit that the job must merge. ``commit``: waits for its
    merge. ``briefing``: text for the end of the agent's prompt. ``was_tested``: an earlier attempt ran the checks.
    ``rejection``: the result of a failed check. ``saves_work``: whether the agent's next attempt continues with the
    files in the folder.
    """

    worktree: Worktree
    merges: str | None = None
    briefing: str = ""
    result: AttemptEnd | None = None
    is_earlier_result: bool = False
    commit: str | None = None
    was_tested: bool = False
    tested: bool = False
    rejection: AttemptEnd | None = None
    saves_work: bool = True
    _checks: list[Check] = field(default_factory=list)

    def check(self, check: Check, result: AttemptEnd) -> AttemptEnd:
        """Return the result of *check*, which must also pass on the merged files if these differ."""
        self._checks.append(check)
        if self.was_tested:
            return result
        if self.commit is not None:
            self.worktree.detach(self.commit)
        self.tested = False
        checked = self.result = check(result)
        self.tested = checked.outcome is Outcome.COMPLETED
        if checked.outcome is Outcome.FAILED:
            self.rejection = checked
        return checked

    def run_checks_again(self) -> bool:
        """Run all checks on the merged files; return whether they passed. Raises Interrupted."""
        assert self.result is not None  # noqa: S101 - a merge has a result
        for check in self._checks:
            checked = check(self.result)
            self.result = replace(self.result, log=checked.log, usage=checked.usage)
            if checked.outcome is Outcome.FAILED:
                self.rejection = checked
                return False
            if checked.outcome is not Outcome.COMPLETED:
                raise GitInterrupted(Interruption(checked.outcome, checked.error or ""))
        return True
