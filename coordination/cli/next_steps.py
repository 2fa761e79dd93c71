"""Next steps: the commands with which a person continues a task or a run, for the end of an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from coordination.domain.tasks.next_steps import NextStep, Situation, join_steps, steps

if TYPE_CHECKING:
    from coordination.api.runs import Run
    from coordination.api.tasks import TaskHandle
    from coordination.domain.tasks.outdated import OutdatedTask
    from coordination.runtime import Runtime


def id_of_project_here(runtime: Runtime) -> str | None:
    """Return the id of the project of the current folder, if the workspace has it."""
    from coordination.api.names import project_of_current_folder

    here = project_of_current_folder(runtime)
    return None if here is None else here.id


def steps_of_ended_tasks(
    runtime: Runtime, tasks: Sequence[TaskHandle], outdated: Mapping[str, Sequence[OutdatedTask]]
) -> list[tuple[NextStep, ...]]:
    """Return the next steps for each of these ended tasks. *outdated*: their outdated inputs, by task id."""
    from coordination.store.reports.tasks import task_steps

    here = id_of_project_here(runtime)
    with runtime.store.read() as tx:
        abouts = [task_steps.TaskSteps(tx, runtime.workspace_id, task.record, here) for task in tasks]
        return [task_steps.steps_after_end(about, outdated.get(about.task.id, ())) for about in abouts]


def steps_of_run(run: Run, situation: Situation) -> tuple[NextStep, ...]:
    """Return the next steps for a run."""
    return steps(situation, run=name_of_run(run))


def name_of_run(run: Run) -> str:
    """Return the shortest name by which commands in the current folder find the run."""
    from coordination.store.queries.tasks import names

    record, here = run.record, id_of_project_here(run.runtime)
    return run.runtime.read(names.run_name, run.id, name=record.name, project_id=record.project_id, here=here)


def name_of_task(task: TaskHandle) -> str:
    """Return the shortest name by which commands in the current folder find the task."""
    from coordination.store.queries.tasks import names

    record, here = task.record, id_of_project_here(task.runtime)
    return task.runtime.read(
        names.task_name, task.id, key=task.key, run_id=record.run_id, project_id=record.project_id, here=here
    )


def after_change(task: TaskHandle) -> str:
    """Return the command that follows a resumed task, or where no worker is alive, the one that starts one."""
    from coordination.api.runs import Run
    from coordination.store.queries.fleet import workers

    if task.runtime.read(workers.list_live_for, within=task.runtime.settings.lease_ttl):
        return join_steps(steps(Situation.RUNNING, task=name_of_task(task)))
    run = Run(task.runtime, task.record.run_id)
    return f"No worker is alive; {join_steps(steps_of_run(run, Situation.RUN_INTERRUPTED))}"
