"""Chooses the first variant of a task that passes its gates and cancels the others."""

from __future__ import annotations

from dataclasses import replace

from coordination.base.errors import DatabaseUnavailable
from coordination.domain.plans.plan_expansion import VARIANT
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.flows.tasks.choose_variant import choose_variant
from workers.attempt.running import Proceed, RunningAttempt, is_unfinished
from workers.context import Context


class VariantsStep:
    """Chooses a variant that has passed, unless another was first."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        result, claim = proceed(attempt), attempt.claim
        if is_unfinished(result) or VARIANT not in claim.options["role"]:
            return result
        try:
            choice = self._context.store.transact(
                lambda tx: choose_variant(tx, claim.workspace_id, claim.task_id, claim.attempt)
            )
        except DatabaseUnavailable as error:  # its usage counts; the next attempt tries again
            return replace(result, outcome=Outcome.DEFERRED, error=error.sentence())
        self._context.stop(claim.workspace_id, claim.project_id, choice.canceled)
        return result if choice.won else replace(result, outcome=Outcome.CANCELED, error=choice.why)
