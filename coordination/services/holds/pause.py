"""Paused, archived and stopped projects: none of their tasks starts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, RowMapping

from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.next_steps import NextStep, Situation, steps
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import ClaimRequest, ExplainedTask, HaltedRun, Hold, HoldDecision, HoldReason
from coordination.services.money.budgets import Estimator
from coordination.store.queries.predicates import PAUSED, PAUSED_STATUSES
from coordination.store.queries.projects import projects, stops
from coordination.store.queries.tasks import events, ready
from coordination.store.queries.tasks.claims import Candidate

_REASON = BlockReason.PAUSED


class PauseHold(Hold):
    """Holds the tasks of paused projects; resuming the project removes the reason."""

    name = "on_hold"
    reason = _REASON
    condition = PAUSED
    lifts_without_person = True  # with the project, which ``find_project_obstacles`` explains

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> HoldDecision:
        """Hold the tasks of projects that are still paused."""
        if not request.wait:
            return HoldDecision(skipped=[row.id for row in rows])
        # Check again under a lock: a concurrent resume would miss tasks that are held after it.
        paused = {
            project_id
            for project_id in sorted({row.project_id for row in rows})
            if projects.lock_status(request.tx, request.workspace_id, project_id) in PAUSED_STATUSES
        }
        return HoldDecision({row.id: HoldReason() for row in rows if row.project_id in paused})

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Lift nothing, but pause the project again if an earlier version resumed it although it is stopped."""
        stops.mark_projects(tx, workspace_id, project_id)
        return []

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield the stop that applies to the project, and whether the project is paused."""
        about, task = target.about, target.task
        if task is None:  # the task to explain has the command
            if _REASON in target.reasons:
                yield TaskBlocker(self.name, "its project is paused", via=target.via)
            return
        project = projects.get(about.tx, about.workspace_id, task.project_id)
        stop = stops.find_covering(about.tx, about.workspace_id, task.project_id)
        if stop is not None:
            yield TaskBlocker("stopped", stop.sentence(), steps=(NextStep("end it with", stop.command),))
        if project is None:
            return
        if project.status is ProjectStatus.ON_HOLD or (stop is None and _REASON in target.reasons):
            then = steps(Situation.ON_HOLD, project=project.name)
            yield TaskBlocker(self.name, f"its project {project.name} is paused", steps=then)

    def find_project_obstacles(self, run: HaltedRun) -> Iterator[Obstacle]:
        """Yield the stop that applies to the project, and whether the project is paused."""
        number = sum(run.groups.values())
        if (stop := stops.find_covering(run.tx, run.workspace_id, run.project_id)) is not None:
            words = f"{stop.sentence()}; end it with: {stop.command}"
            yield Obstacle("stopped", number, (stop.sentence(), stop.command), words)
        project = projects.get(run.tx, run.workspace_id, run.project_id)
        if project is not None and project.status in PAUSED_STATUSES:
            resume = f"coord projects resume {shlex.quote(project.name)}"
            words = f"its project {project.name} is paused; resume it with: {resume}"
            yield Obstacle(self.name, number, (project.name,), words)


def lift_pause(tx: Connection, workspace_id: str, project_id: str, *, actor: str) -> int:
    """Lift the pause from the project's tasks, and return the number of queued tasks."""
    lifted = ready.lift(tx, workspace_id, project_id, _REASON)
    return events.append_unblocked(tx, workspace_id, project_id, lifted, actor=actor)


HOLD = PauseHold()
