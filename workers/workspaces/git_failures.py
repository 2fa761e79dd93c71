"""Map errors of git and worktrees to the end of the attempt: outcome, sentence, and whether it is retried."""

from __future__ import annotations

from dataclasses import replace

from coordination.base.errors import Refused, Unavailable
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.runners.output import clean_text
from workers.runners.program import is_transient
from workers.workspaces import conflict_task
from workers.workspaces.git import GitFailed, GitInterrupted
from workers.workspaces.nested_repositories import NotCollected
from workers.workspaces.worktree import Unresolved

EXPECTED = (*(Refused, GitInterrupted, GitFailed, Unavailable, NotCollected, Unresolved), *(OSError, ValueError))


def failure_of(error: BaseException, *, missing: str | None) -> AttemptEnd:
    """Return the end of an attempt after one of the EXPECTED errors. *missing*: what the worktree lacks, if any.

    It carries feedback for the agent's next attempt.
    """
    match error:
        case Refused():
            failure = AttemptEnd(Outcome.FAILED, error=error.sentence(), retryable=False)
        case GitInterrupted():
            failure = AttemptEnd(error.interruption.outcome, error=error.interruption.error)
        case Unavailable():  # of a port, or of the variant that may have been first
            failure = AttemptEnd(Outcome.DEFERRED, error=error.sentence())
        case Unresolved():
            why, feedback = conflict_task.explain_unresolved(error)
            failure = AttemptEnd(Outcome.FAILED, error=why, carry_over={"feedback": feedback})
        case _ if missing:
            failure = _collection_failure(missing)
        case GitFailed() if error.transient:
            failure = AttemptEnd(Outcome.DEFERRED, error=error.sentence)
        case GitFailed():
            failure = replace(_collection_failure(error.sentence), log=error.log)
        case NotCollected():
            failure = _collection_failure(error.sentence)
        case _:
            passing = isinstance(error, OSError | ValueError) and is_transient(error)
            outcome = Outcome.DEFERRED if passing else Outcome.FAILED
            failure = AttemptEnd(outcome, error=f"the workspace cannot be used: {error}", retryable=passing)
    return failure


def _collection_failure(why: str) -> AttemptEnd:
    why = clean_text(why)
    return AttemptEnd(
        Outcome.FAILED, error=why, carry_over={"feedback": f"What you left could not be committed: {why}"}
    )
