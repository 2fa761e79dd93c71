"""Checks before a job starts whether its project allows a model that a template names, known only after rendering."""

from __future__ import annotations

from coordination.base.errors import DatabaseUnavailable
from coordination.domain.projects.model_policy import model_names
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.services import holds
from coordination.services.holds.model_policy import explain_refusal
from coordination.store.engine import Store
from coordination.store.queries.projects import projects
from workers.attempt.running import Proceed, RunningAttempt
from workers.context import Context


class ModelPolicyStep:
    """Checks the models before the job, and again after the end of a forbidden attempt was written."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        return check_rendered_model(self._context.store, attempt.stored, attempt.rendered) or proceed(attempt)

    def committed(self, claim: Claim, end: AttemptEnd, *, refused: bool) -> None:
        """Enqueue the task again if the rule has changed since the check."""
        if not refused and requeue_if_allowed(self._context.store, claim, end, actor="worker"):
            self._context.wake_projects([(claim.workspace_id, claim.project_id)])


def check_rendered_model(store: Store, stored: Claim, rendered: Claim) -> AttemptEnd | None:
    """Return the end of an attempt with a forbidden model, which holds its task without a charge; None if allowed.

    Models that are named without a template were checked by the claim.
    """
    if not stored.job_kind.asks_a_model or not any("{{" in name for name in model_names(stored.work)):
        return None
    try:
        with store.read() as tx:
            project = projects.get(tx, rendered.workspace_id, rendered.project_id)
    except DatabaseUnavailable as error:
        return AttemptEnd(Outcome.DEFERRED, error=error.sentence(), job_started=False)
    why = None if project is None else explain_refusal(rendered.work, project.model_restrictions, rendered=True)
    if why is None:
        return None
    return AttemptEnd(Outcome.DEFERRED, error=why, job_started=False, forbidden_work=rendered.work)


def requeue_if_allowed(store: Store, claim: Claim, result: AttemptEnd, *, actor: str) -> bool:
    """Requeue a task whose model has been allowed between the check and the write of its end.

    The change of the rule did not see the task wait. Returns whether there is a task to enqueue.
    """
    work = result.forbidden_work
    if work is None:
        return False
    with store.read() as tx:
        project = projects.get(tx, claim.workspace_id, claim.project_id)
    if project is None or explain_refusal(work, project.model_restrictions, rendered=True) is not None:
        return False
    return (
        store.transact(lambda tx: holds.lift_setting_holds(tx, claim.workspace_id, claim.project_id, actor=actor)) > 0
    )
