"""The commands that a person can enter about a task, with the names that the current project resolves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from coordination.domain.tasks.next_steps import NextStep, Situation, situation_of_error, steps
from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.tasks import TaskRecord, TaskState
from coordination.store.queries.tasks import names, outdated
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.queries.tasks.tasks import BATCH
from coordination.store.tables.tasks.tasks import dependencies, tasks

d, t = dependencies.c, tasks.c


@dataclass(frozen=True, slots=True)
class TaskSteps:
    """Builds commands about a task and others of its run. ``here``: the id of the current project, or None."""

    tx: Connection
    workspace_id: str
    task: TaskRecord
    here: str | None

    def of(self, situation: Situation, task_id: str | None = None, key: str = "", **more: str) -> tuple[NextStep, ...]:
        """Return the commands about the task, or another task of its run."""
        return steps(situation, task=self.name(task_id or self.task.id, key or self.task.key), **more)

    def outdated(self) -> tuple[OutdatedTask, ...]:
        """Return the outdated inputs of the task."""
        return tuple(outdated.of_tasks(self.tx, self.workspace_id, [self.task.id]))

    def name(self, task_id: str, key: str) -> str:
        """Return the name of a task of its run in commands."""
        subject = {"key": key, "run_id": self.task.run_id, "project_id": self.task.project_id}
        return names.task_name(self.tx, self.workspace_id, task_id, **subject, here=self.here)


def steps_after_end(about: TaskSteps, old: Sequence[OutdatedTask] = ()) -> tuple[NextStep, ...]:
    """Return the commands about a task that has ended. *old*: its outdated inputs."""
    task = about.task
    if task.state is TaskState.COMPLETED:
        is_outdated = bool(old) and all(each.can_rerun for each in old)
        return about.of(Situation.OUTDATED) if is_outdated else about.of(Situation.COMPLETED)
    if task.state is TaskState.CANCELED:
        need = _ended_badly(about)
        return about.of(Situation.CANCELED) if need is None else about.of(Situation.CANCELED_WITH_NEED, need=need)
    return about.of(situation_of_error(task.error))


def _ended_badly(about: TaskSteps) -> str | None:
    """Return the name of the upstream task whose failure or cancellation canceled the task, or None."""
    cause, level, seen = None, [about.task.id], {about.task.id}
    while level:
        rows = [
            row
            for row in open_dependencies(about.tx, about.workspace_id, level)
            if row["id"] not in seen and row["state"] in (TaskState.FAILED, TaskState.CANCELED)
        ]
        if not rows:
            break
        cause = next((row for row in rows if row["state"] == TaskState.FAILED), rows[0])
        if cause["state"] == TaskState.FAILED:
            break
        level = [row["id"] for row in rows]
        seen.update(level)
    return None if cause is None else about.name(cause["id"], cause["key"])


def open_dependencies(tx: Connection, workspace_id: str, children: list[str]) -> Iterator[RowMapping]:
    """Yield the tasks that *children* wait for, with ``child_id``."""
    columns = (t.id, t.key, t.title, t.state, t.reasons, t.error, t.not_before, t.on_dependency_failure)
    for start in range(0, len(children), BATCH):
        yield from tx.execute(
            select(d.child_id, d.kind, *columns)
            .join(tasks, t.id == d.parent_id)
            .where(
                d.workspace_id == workspace_id,
                d.child_id.in_(children[start : start + BATCH]),
                d.kind.in_(HOLDING),
                d.satisfied_at.is_(None),
            )
            .order_by(d.child_id, t.id)
        ).mappings()
