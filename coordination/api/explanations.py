"""Explains why tasks and runs do not continue, and which commands help."""

from __future__ import annotations

from collections.abc import Sequence

from coordination.api.budgets import current_estimator
from coordination.api.names import project_of_current_folder
from coordination.domain.tasks.explanations import Obstacle, TaskExplanation
from coordination.domain.tasks.tasks import RunRecord, TaskRecord
from coordination.flows.tasks.explain_task import explain_task
from coordination.flows.tasks.find_obstacles import find_obstacles
from coordination.runtime import Runtime


def explain_tasks(runtime: Runtime, tasks: Sequence[TaskRecord]) -> list[TaskExplanation]:
    """Return why each of *tasks* is not running, in their order; commands are for the current folder."""
    if not tasks:
        return []
    here = project_of_current_folder(runtime)
    with runtime.store.read() as tx:
        estimator = current_estimator(tx, runtime.workspace_id)
        return [
            explain_task(
                tx,
                runtime.workspace_id,
                task,
                live_within=runtime.settings.lease_ttl,
                window=runtime.settings.window,
                estimator=estimator,
                here=None if here is None else here.id,
            )
            for task in tasks
        ]


def obstacles_of(runtime: Runtime, run: RunRecord, *, needs_worker: bool) -> list[Obstacle]:
    """Return why an open run cannot continue; empty while it can. *needs_worker*: no command starts a worker for it."""
    with runtime.store.read() as tx:
        return find_obstacles(
            tx,
            runtime.workspace_id,
            run.project_id,
            run.id,
            live_within=runtime.settings.lease_ttl,
            needs_worker=needs_worker,
            estimator=current_estimator(tx, runtime.workspace_id),
        )
