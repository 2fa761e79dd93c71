"""Says how an attempt ends when its worktree, or git, was in the way: outcome, sentence, and whether it is retried."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coordination.base.errors import Refused, Unavailable
from coordination.domain.tasks.attempts import Outcome
from workers.runners.output import clean_text
from workers.runners.program import is_passing
from workers.workspaces import conflict_task
from workers.workspaces.git import GitFailed, GitInterrupted
from workers.workspaces.nested_repositories import NotCollected
from workers.workspaces.worktree import Unresolved

EXPECTED = (
    *(Refused, GitInterrupted, GitFailed, Unavailable, NotCollected, Unresolved),
    *(OSError, ValueError),
)


@dataclass(frozen=True, slots=True)
class GitFailure:
    """``feedback``: what an agent is told when it tries again, where it was its job that left something.

    ``log``: what the attempt's log is to hold besides.
    """

    outcome: Outcome
    error: str
    retryable: bool = True
    feedback: str | None = None
    log: str = ""


def failure_of(error: BaseException, *, gone: str | None) -> GitFailure:
    """What one of the EXPECTED errors means. *gone*: what of the worktree is not there any more, if anything."""
    match error:
        case Refused():
            failure = GitFailure(Outcome.FAILED, error.sentence(), retryable=False)
        case GitInterrupted():
            failure = GitFailure(error.interruption.outcome, error.interruption.error)
        case Unavailable():  # a port, or who could say whether another variant was first
            failure = GitFailure(Outcome.DEFERRED, error.sentence())
        case Unresolved():
            why, told = conflict_task.unresolved(error)
            failure = GitFailure(Outcome.FAILED, why, feedback=told)
        case _ if gone:
            failure = _not_collected(gone)
        case GitFailed() if error.transient:
            failure = GitFailure(Outcome.DEFERRED, error.sentence)
        case GitFailed():
            failure = replace(_not_collected(error.sentence), log=error.log)
        case NotCollected():
            failure = _not_collected(error.sentence)
        case _:
            passing = is_passing(error) if isinstance(error, OSError | ValueError) else False
            outcome = Outcome.DEFERRED if passing else Outcome.FAILED
            failure = GitFailure(outcome, f"the workspace cannot be used: {error}", retryable=passing)
    return failure


def _not_collected(why: str) -> GitFailure:
    why = clean_text(why)
    return GitFailure(Outcome.FAILED, why, feedback=f"What you left could not be committed: {why}")
