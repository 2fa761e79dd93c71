"""Map errors of git and worktrees to the end of the attempt: outcome, sentence, and whether it is retried."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coordination.base.errors import Refused, Unavailable
from coordination.domain.tasks.attempts import Outcome
from workers.runners.output import clean_text
from workers.runners.program import is_transient
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
    """The end of an attempt after an error. ``feedback``: for the agent's next attempt. ``log``: for its log."""

    outcome: Outcome
    error: str
    retryable: bool = True
    feedback: str | None = None
    log: str = ""


def failure_of(error: BaseException, *, missing: str | None) -> GitFailure:
    """Return the end of an attempt after one of the EXPECTED errors. *missing*: what the worktree lacks, if any."""
    match error:
        case Refused():
            failure = GitFailure(Outcome.FAILED, error.sentence(), retryable=False)
        case GitInterrupted():
            failure = GitFailure(error.interruption.outcome, error.interruption.error)
        case Unavailable():  # of a port, or of the variant that may have been first
            failure = GitFailure(Outcome.DEFERRED, error.sentence())
        case Unresolved():
            why, feedback = conflict_task.explain_unresolved(error)
            failure = GitFailure(Outcome.FAILED, why, feedback=feedback)
        case _ if missing:
            failure = _collection_failure(missing)
        case GitFailed() if error.transient:
            failure = GitFailure(Outcome.DEFERRED, error.sentence)
        case GitFailed():
            failure = replace(_collection_failure(error.sentence), log=error.log)
        case NotCollected():
            failure = _collection_failure(error.sentence)
        case _:
            passing = is_transient(error) if isinstance(error, OSError | ValueError) else False
            outcome = Outcome.DEFERRED if passing else Outcome.FAILED
            failure = GitFailure(outcome, f"the workspace cannot be used: {error}", retryable=passing)
    return failure


def _collection_failure(why: str) -> GitFailure:
    why = clean_text(why)
    return GitFailure(Outcome.FAILED, why, feedback=f"What you left could not be committed: {why}")
