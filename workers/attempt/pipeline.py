"""Runs an attempt through the steps around its runner. ``step_list`` has the steps in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from coordination.base.errors import Refused
from coordination.domain.jobs import AgentCall
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.attempt.running import AttemptStep, ClosableStep, CommitListener, Proceed, RunningAttempt
from workers.runners.base import Runner

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConditionalStep:
    """A step and the condition for claims to pass through it."""

    applies: Callable[[Claim], bool]
    step: AttemptStep


def always(_claim: Claim) -> bool:
    """Return True: the step applies to every attempt."""
    return True


def asks_a_model(claim: Claim) -> bool:
    """Return whether the job calls a model."""
    return claim.job_kind.asks_a_model


def runs_an_agent(claim: Claim) -> bool:
    """Return whether the job is a coding agent."""
    return claim.job_kind is AgentCall


def has_option(*names: str) -> Callable[[Claim], bool]:
    """Return the condition that the task has one of these options."""
    return lambda claim: any(name in claim.options for name in names)


class Pipeline:
    """Runs attempts through *steps* to the runner of their job; one instance serves all threads of a worker process."""

    def __init__(self, steps: Sequence[ConditionalStep], runner_for: Callable[[Claim], Runner]) -> None:
        self._steps = steps
        self._runner_for = runner_for
        self._listeners = [each.step for each in steps if isinstance(each.step, CommitListener)]

    def run(self, attempt: RunningAttempt) -> AttemptEnd:
        """Run *attempt* to its end. A bug of a step or runner fails the attempt, not the worker."""
        result = self._run(attempt)
        secrets = attempt.control.secrets  # the runner has set them
        return result if secrets is None else secrets.hide_in(result)

    def committed(self, claim: Claim, end: AttemptEnd, *, refused: bool) -> None:
        """Notify the steps that the attempt's *end* was written, or *refused* because the task has changed.

        Also those that do not apply: the conditions raise for a job of an unknown kind, and its end is written too.
        """
        for listener in self._listeners:
            listener.committed(claim, end, refused=refused)

    def close(self) -> None:
        """Close all steps. No attempt may run any more."""
        for each in self._steps:
            if isinstance(each.step, ClosableStep):
                each.step.close()

    def _run(self, attempt: RunningAttempt) -> AttemptEnd:
        claim = attempt.claim
        try:
            proceed: Proceed = self._run_job
            for each in reversed(self._steps):
                if each.applies(claim):
                    proceed = partial(each.step, proceed=proceed)
            return proceed(attempt)
        except Refused as refusal:
            return AttemptEnd(Outcome.FAILED, error=refusal.sentence(), retryable=False, job_started=False)
        except Exception as error:
            log.exception("the runner failed", task=claim.key, project=claim.project)
            return AttemptEnd(Outcome.FAILED, error=f"the runner failed: {type(error).__name__}: {error}")

    def _run_job(self, attempt: RunningAttempt) -> AttemptEnd:
        return self._runner_for(attempt.claim).run(attempt.claim, attempt.control)
