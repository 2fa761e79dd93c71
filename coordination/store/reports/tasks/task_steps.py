"""What a person can enter next about a task, with the names that it and others of its run have where one stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from coordination.domain.tasks.next_steps import NextStep, Situation, failure_of, steps
from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.tasks import TaskRecord, TaskState
from coordination.store.queries.tasks import names, outdated
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.queries.tasks.tasks import BATCH
from coordination.store.tables.tasks.tasks import dependencies, tasks

d, t = dependencies.c, tasks.c


@dataclass(frozen=True, slots=True)
class TaskSteps:
    """What to enter about one task, and about others of its run, as they are called in the project *here*.

    *here*: the id of the project in which one stands; None: in none.
    """

    tx: Connection
    workspace_id: str
    task: TaskRecord
    here: str | None

    def of(self, situation: Situation, task_id: str | None = None, key: str = "", **more: str) -> tuple[NextStep, ...]:
        """What to enter about a task of its run, or about itself."""
        return steps(situation, task=self.name(task_id or self.task.id, key or self.task.key), **more)

    def outdated(self) -> tuple[OutdatedTask, ...]:
        """What the task was given and that is out of date."""
        return tuple(outdated.of_tasks(self.tx, self.workspace_id, [self.task.id]))

    def name(self, task_id: str, key: str) -> str:
        """What a command calls a task of its run."""
        whose = {"key": key, "run_id": self.task.run_id, "project_id": self.task.project_id}
        return names.task_name(self.tx, self.workspace_id, task_id, **whose, here=self.here)


def of_ended(about: TaskSteps, old: Sequence[OutdatedTask] = ()) -> tuple[NextStep, ...]:
    """What to enter about a task that has ended. *old*: what it was given that is out of date."""
    task = about.task
    if task.state is TaskState.COMPLETED:
        again = bool(old) and all(one.again for one in old)
        return about.of(Situation.OUTDATED) if again else about.of(Situation.COMPLETED)
    if task.state is TaskState.CANCELED:
        need = _ended_badly(about)
        return about.of(Situation.CANCELED) if need is None else about.of(Situation.CANCELED_WITH_NEED, need=need)
    return about.of(failure_of(task.error))


def _ended_badly(about: TaskSteps) -> str | None:
    """The name of what a canceled task waits for and that has failed, or was canceled by a person; None: of nothing."""
    found, level, seen = None, [about.task.id], {about.task.id}
    while level:
        rows = [
            row
            for row in waited_for(about.tx, about.workspace_id, level)
            if row["id"] not in seen and row["state"] in (TaskState.FAILED, TaskState.CANCELED)
        ]
        if not rows:
            break
        found = next((row for row in rows if row["state"] == TaskState.FAILED), rows[0])
        if found["state"] == TaskState.FAILED:
            break
        level = [row["id"] for row in rows]
        seen.update(level)
    return None if found is None else about.name(found["id"], found["key"])


def waited_for(tx: Connection, workspace_id: str, children: list[str]) -> Iterator[RowMapping]:
    for start in range(0, len(children), BATCH):
        yield from tx.execute(
            select(
                d.child_id,
                d.kind,
                t.id,
                t.key,
                t.title,
                t.state,
                t.reasons,
                t.error,
                t.not_before,
                t.on_dependency_failure,
            )
            .join(tasks, t.id == d.parent_id)
            .where(
                d.workspace_id == workspace_id,
                d.child_id.in_(children[start : start + BATCH]),
                d.kind.in_(HOLDING),
                d.satisfied_at.is_(None),
            )
            .order_by(d.child_id, t.id)
        ).mappings()
