"""What a person can enter next about tasks and runs, for the ends of answers: the table's commands, named from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from coordination.domain.tasks.next_steps import NextStep, Situation, sentence, steps

if TYPE_CHECKING:
    from coordination.client import Coordination, Run, TaskHandle
    from coordination.domain.tasks.explanations import TaskExplanation
    from coordination.domain.tasks.outdated import OutdatedTask


def project_here(co: Coordination) -> str | None:
    """The id of the project that one stands in, if the workspace knows it."""
    from coordination.lookups import project_here as found

    here = found(co.runtime)
    return None if here is None else here.id


def of_ended(
    co: Coordination, tasks: Sequence[TaskHandle], old: Mapping[str, Sequence[OutdatedTask]] | None = None
) -> list[tuple[NextStep, ...]]:
    """The next steps for each of these tasks, which have ended. *old*: what each was given that is out of date."""
    from coordination.store.reports.tasks import task_steps

    here = project_here(co)
    with co.runtime.store.read() as tx:
        abouts = [task_steps.TaskSteps(tx, co.runtime.workspace_id, task.record, here) for task in tasks]
        return [task_steps.of_ended(about, (old or {}).get(about.task.id, ())) for about in abouts]


def of_run(run: Run, situation: Situation) -> tuple[NextStep, ...]:
    """The next steps for a run."""
    return steps(situation, run=called_run(run))


def called_run(run: Run) -> str:
    """What a command calls the run where one stands."""
    from coordination.store.queries.tasks import names

    co, record, here = run.co, run.record, project_here(run.co)
    with co.runtime.store.read() as tx:
        return names.run_name(
            tx, co.runtime.workspace_id, run.id, name=record.name, project_id=record.project_id, here=here
        )


def called(co: Coordination, task: TaskHandle) -> str:
    """What a command calls the task where one stands."""
    from coordination.store.queries.tasks import names

    record, here = task.record, project_here(co)
    with co.runtime.store.read() as tx:
        return names.task_name(
            tx,
            co.runtime.workspace_id,
            task.id,
            key=task.key,
            run_id=record.run_id,
            project_id=record.project_id,
            here=here,
        )


def after_change(co: Coordination, task: TaskHandle) -> str:
    """What to enter after a task was let go on: where to watch it, or what starts a worker for its run."""
    from coordination.store.queries.fleet import serving

    runtime = co.runtime
    with runtime.store.read() as tx:
        alive = serving.live_for(tx, runtime.workspace_id, within=runtime.settings.lease_ttl)
    if alive:
        return sentence(steps(Situation.RUNNING, task=called(co, task)))
    run = co.run(task.record.run_id)
    return f"No worker is alive; {sentence(of_run(run, Situation.RUN_INTERRUPTED))}"


def explained(co: Coordination, task: TaskHandle) -> TaskExplanation:
    """What holds a task, and what to enter about it here."""
    from coordination.budgeting import current_estimator
    from coordination.flows.tasks.explain_task import explain_task

    runtime, here = co.runtime, project_here(co)
    with runtime.store.read() as tx:
        return explain_task(
            tx,
            runtime.workspace_id,
            task.record,
            live_within=runtime.settings.lease_ttl,
            window=runtime.settings.window,
            estimator=current_estimator(tx, runtime.workspace_id),
            here=here,
        )
