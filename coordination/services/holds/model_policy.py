"""The model policy: a task whose model its project does not allow waits until the policy is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.projects.model_policy import parse_restrictions, refusal, steps_to_allow
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.next_steps import join_steps
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.services.holds.base import ClaimRequest, ExplainedTask, HaltedRun, Hold, HoldDecision, HoldReason
from coordination.store.queries.predicates import RESTRICTS_MODELS
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import attempts
from coordination.store.queries.tasks.claims import Candidate


class ModelPolicyHold(Hold):
    """Holds tasks whose model is not allowed. The worker checks models in templates after rendering."""

    name = "model"
    reason = BlockReason.MODEL
    condition = RESTRICTS_MODELS
    follows_settings = True

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> HoldDecision:
        """Hold the tasks whose models their projects do not allow."""
        refused = self._refused(request, rows, lock=False)
        if refused and not request.wait:
            return HoldDecision(skipped=list(refused))
        if refused:  # check again under a lock: a concurrent policy change would miss tasks that are held after it
            refused = self._refused(request, [row for row in rows if row.id in refused], lock=True)
        return HoldDecision(refused)

    def _refused(self, request: ClaimRequest, rows: Sequence[Candidate], *, lock: bool) -> dict[str, HoldReason]:
        ids = sorted({row.project_id for row in rows})
        rules = {
            project.id: project.model_restrictions
            for project in projects.get_many(request.tx, request.workspace_id, ids, lock=lock)
        }
        return {
            row.id: HoldReason(why) for row in rows if (why := explain_refusal(row.work, rules.get(row.project_id, {})))
        }

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield why the model is not allowed, and how to change the policy."""
        about, task = target.about, target.task
        if self.reason not in target.reasons and (task is None or task.state is not TaskState.QUEUED):
            return
        project = projects.get(about.tx, about.workspace_id, about.task.project_id)
        if task is None or project is None:
            yield TaskBlocker(self.name, "its project does not allow its model", via=target.via)
            return
        why = explain_refusal(task.work, project.model_restrictions)
        if why is None and self.reason in target.reasons:  # the model of a template is known from the attempt only
            last = attempts.latest(about.tx, about.workspace_id, task.id)
            why = (last.error if last is not None else None) or "its project did not allow its model"
        if why is not None:
            yield TaskBlocker(
                self.name, why, steps=steps_to_allow(project.name, project.model_restrictions, [task.work])
            )

    def find_run_obstacles(self, run: HaltedRun) -> list[Obstacle] | None:
        """Return the tasks whose models the project does not allow."""
        number = run.count(self.reason)
        project = projects.get(run.tx, run.workspace_id, run.project_id)
        if not number or project is None:
            return []
        jobs = run.jobs(self.reason)
        keys = tuple(jobs)
        words = f"the project does not allow the model of {', '.join(keys)}" + (" and others" * (number > len(keys)))
        then = join_steps(steps_to_allow(project.name, project.model_restrictions, jobs.values()))
        return [Obstacle(self.name, number, keys, f"{words}; {then}")]


def explain_refusal(work: Mapping[str, Any], rules: Mapping[str, Any], *, rendered: bool = False) -> str | None:
    """Return why a project with these *rules* does not allow the job's model; None when it does.

    *rendered*: templates are filled in, so that models in them are checked too.
    """
    try:
        restrictions = parse_restrictions(rules)
        return None if restrictions is None else refusal(work, restrictions, rendered=rendered)
    except Refused as error:  # stored by a version that did not validate it
        return f"the model policy of the project is invalid: {error.message}"


HOLD = ModelPolicyHold()
