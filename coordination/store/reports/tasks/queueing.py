"""What keeps a task that is ready from being taken: limits of its project, workers, the share of its project."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import Connection, select

from coordination.base.wording import plural
from coordination.domain.jobs.checkouts import merge_key, run_branch
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import NextStep, Situation, steps
from coordination.domain.tasks.tasks import TaskRecord
from coordination.store.queries.fleet import serving, workers
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import ready, slots
from coordination.store.reports.tasks.task_steps import TaskSteps
from coordination.store.tables.tasks.attempts import attempts as attempt_rows
from coordination.store.tables.tasks.tasks import tasks

t = tasks.c


def in_queue(about: TaskSteps, live_within: timedelta, window: int | None) -> Iterator[TaskBlocker]:
    """What keeps a task that is ready from being taken."""
    tx, workspace_id, task = about.tx, about.workspace_id, about.task
    wanted = {"project", f"agent:{task.agent}", f"key:{task.concurrency_key}"}
    for slot in slots.listed(tx, workspace_id, task.project_id):
        if slot["name"] in wanted and slot["used"] >= slot["cap"]:
            users = (
                ", ".join(
                    _holders(tx, workspace_id, task.project_id, slots.stored_name(tx, workspace_id, slot["name"]))
                )
                or "nothing any more"
            )
            if slot["name"] == f"key:{merge_key(task.run_id)}":
                yield TaskBlocker(
                    "merge", f"waits for its turn to merge to {run_branch(task.run_id)}: now it is {users}"
                )
                continue
            project = projects.get(tx, workspace_id, task.project_id)
            then = () if project is None else _raise(project.name, slot["name"])
            reached = f"the limit {slot['name']} is reached: {slot['used']}/{slot['cap']} used by {users}"
            yield TaskBlocker("slot", reached, steps=then)
    ours = serving.live_for(tx, workspace_id, within=live_within)
    free, at_work = sum(row["slots"] for row in ours), workers.busy(tx)
    if free == 0 and (others := workers.live_slots(tx, within=live_within)):
        name = serving.name_of(tx, workspace_id)
        yield TaskBlocker(
            "no_worker",
            f"no living worker runs jobs of the workspace {name}: the {plural(others, 'place')} that there are run jobs"
            " of others",
            steps=steps(Situation.NO_WORKER_OF_WORKSPACE, workspace=name),
        )
    elif free == 0:
        yield TaskBlocker("no_worker", "no worker is alive", steps=steps(Situation.NO_WORKER))
    elif (busy := sum(at_work.get(row["id"], 0) for row in ours)) >= free:
        yield TaskBlocker(
            "busy", f"all {free} places of the living workers are taken ({plural(busy, 'job runs', 'jobs run')})"
        )
    if window is not None and not _is_enqueued(tx, task) and (enqueued := _enqueued(tx, workspace_id, task)) >= window:
        yield TaskBlocker(
            "window",
            f"{plural(enqueued, 'task is', 'tasks are')} in the queue already, which is the share of its project",
        )


def _raise(project: str, slot: str) -> tuple[NextStep, ...]:
    kind, separator, name = slot.partition(":")
    return steps(Situation.SLOT, project=project, limit=kind, value=f"{name}=N" if separator else "N")


def _is_enqueued(tx: Connection, task: TaskRecord) -> bool:
    return tx.execute(select(t.enqueued_at).where(t.id == task.id)).scalar() is not None


def _enqueued(tx: Connection, workspace_id: str, task: TaskRecord) -> int:
    return sum(ready.count_enqueued(tx, workspace_id, task.project_id).values())


def _holders(tx: Connection, workspace_id: str, project_id: str, slot: str) -> list[str]:
    rows = tx.execute(
        select(t.key, attempt_rows.c.slots)
        .join(attempt_rows, attempt_rows.c.task_id == t.id)
        .where(
            attempt_rows.c.workspace_id == workspace_id,
            attempt_rows.c.project_id == project_id,
            attempt_rows.c.finished_at.is_(None),
            attempt_rows.c.slots.is_not(None),
        )
        .order_by(t.key)
    )
    return [row.key for row in rows if slot in row.slots]
