"""Models that a project does not allow: a task that names one waits until the project's rule is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.projects.model_policy import parse_restrictions, refusal
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.next_steps import Situation, sentence, steps
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.services.holds.base import ClaimRequest, Decision, Held, HeldRun, HeldTask, Hold
from coordination.store.queries.predicates import RESTRICTS_MODELS
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import attempts
from coordination.store.queries.tasks.claims import Candidate


class ModelPolicy(Hold):
    """Holds tasks whose model is forbidden. What a template names is asked once the worker has filled it in."""

    name = "model"
    reason = BlockReason.MODEL
    condition = RESTRICTS_MODELS
    follows_settings = True

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> Decision:
        """Hold the tasks whose models the projects do not allow."""
        held = self._held(request, rows, lock=False)
        if held and not request.wait:
            return Decision(skipped=list(held))
        if held:  # under a lock: whoever changes the rule at the same time would not see what is held back after it
            held = self._held(request, [row for row in rows if row.id in held], lock=True)
        return Decision(held)

    def _held(self, request: ClaimRequest, rows: Sequence[Candidate], *, lock: bool) -> dict[str, Held]:
        ids = sorted({row.project_id for row in rows})
        rules = {
            project.id: project.model_restrictions
            for project in projects.get_many(request.tx, request.workspace_id, ids, lock=lock)
        }
        return {row.id: Held(why) for row in rows if (why := forbidden(row.work, rules.get(row.project_id, {})))}

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say which rule forbids the model, and how to change it."""
        about, task = held.about, held.task
        if self.reason not in held.reasons and (task is None or task.state is not TaskState.QUEUED):
            return
        project = projects.get(about.tx, about.workspace_id, about.task.project_id)
        if task is None or project is None:
            yield TaskBlocker(self.name, "its project does not allow its model", via=held.via)
            return
        why = forbidden(task.work, project.model_restrictions)
        if why is None and self.reason in held.reasons:  # what a template named is in its attempt alone
            last = attempts.latest(about.tx, about.workspace_id, task.id)
            why = (last.error if last is not None else None) or "its project did not allow its model"
        if why is not None:
            yield TaskBlocker(self.name, why, steps=steps(Situation.MODEL, project=project.name))

    def of_run(self, run: HeldRun) -> list[Obstacle] | None:
        """Name tasks whose models the project does not allow."""
        number = run.count(self.reason)
        project = projects.get(run.tx, run.workspace_id, run.project_id)
        if not number or project is None:
            return []
        keys = run.keys(self.reason)
        words = f"the project does not allow the model of {', '.join(keys)}" + (" and others" * (number > len(keys)))
        then = sentence(steps(Situation.MODEL, project=project.name))
        return [Obstacle(self.name, number, keys, f"{words}; {then}")]


def forbidden(work: Mapping[str, Any], rules: Mapping[str, Any], *, rendered: bool = False) -> str | None:
    """Return why a project with these *rules* does not allow the job's model; None when it does.

    Models that templates name are looked at once they are *rendered*.
    """
    try:
        restrictions = parse_restrictions(rules)
        return None if restrictions is None else refusal(work, restrictions, rendered=rendered)
    except Refused as error:  # said before it was checked: nobody knows what was meant, so nothing is begun
        return f"which models the project allows cannot be understood: {error.message}"


HOLD = ModelPolicy()
