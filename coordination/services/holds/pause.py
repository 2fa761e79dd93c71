"""A project that is on hold, archived or stopped: none of its tasks starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, RowMapping

from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.explanations import Obstacle, TaskBlocker
from coordination.domain.tasks.next_steps import NextStep, Situation, steps
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import ClaimRequest, Decision, Held, HeldRun, HeldTask, Hold
from coordination.services.money.budgets import Estimator
from coordination.store.queries.predicates import PAUSED, PAUSED_STATUSES
from coordination.store.queries.projects import projects, stops
from coordination.store.queries.tasks import events, ready
from coordination.store.queries.tasks.claims import Candidate

_REASON = BlockReason.PAUSED


class Pause(Hold):
    """Holds the tasks of projects that do not run; whoever lets a project go on takes the reason away."""

    name = "on_hold"
    reason = _REASON
    condition = PAUSED
    passes = True  # with the project, of which ``of_project`` says what holds it

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> Decision:
        """Hold the tasks of projects that are still paused."""
        if not request.wait:
            return Decision(skipped=[row.id for row in rows])
        # Asked again under a lock: a pause that ends now would not see what is held back after it.
        paused = {
            project_id
            for project_id in sorted({row.project_id for row in rows})
            if projects.lock_status(request.tx, request.workspace_id, project_id) in PAUSED_STATUSES
        }
        return Decision({row.id: Held() for row in rows if row.project_id in paused})

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Lift nothing: hold the project again that an earlier program let go on although it is stopped."""
        stops.mark_projects(tx, workspace_id, project_id)
        return []

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say which stop holds the project, and whether it is on hold."""
        about, task = held.about, held.task
        if task is None:  # of the explained task, with the step
            if _REASON in held.reasons:
                yield TaskBlocker(self.name, "its project is on hold", via=held.via)
            return
        project = projects.get(about.tx, about.workspace_id, task.project_id)
        stop = stops.find_covering(about.tx, about.workspace_id, task.project_id)
        if stop is not None:
            yield TaskBlocker("stopped", stop.sentence(), steps=(NextStep("let it go on with", stop.command),))
        if project is None:
            return
        if project.status is ProjectStatus.ON_HOLD or (stop is None and _REASON in held.reasons):
            then = steps(Situation.ON_HOLD, project=project.name)
            yield TaskBlocker(self.name, f"its project {project.name} is on hold", steps=then)

    def of_project(self, run: HeldRun) -> Iterator[Obstacle]:
        """Say which stop holds the project, and whether it is on hold."""
        number = sum(run.groups.values())
        if (stop := stops.find_covering(run.tx, run.workspace_id, run.project_id)) is not None:
            words = f"{stop.sentence()}; let it go on with: {stop.command}"
            yield Obstacle("stopped", number, (stop.sentence(), stop.command), words)
        project = projects.get(run.tx, run.workspace_id, run.project_id)
        if project is not None and project.status in PAUSED_STATUSES:
            words = f"its project {project.name} is on hold; let it go on with: coord projects activate {project.name}"
            yield Obstacle(self.name, number, (project.name,), words)


def release(tx: Connection, workspace_id: str, project_id: str, *, actor: str) -> int:
    """Let the tasks go on that a pause of the project has held; how many are queued again."""
    lifted = ready.lift(tx, workspace_id, project_id, _REASON)
    return events.append_unblocked(tx, workspace_id, project_id, lifted, actor=actor)


HOLD = Pause()
