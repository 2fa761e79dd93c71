"""Single tasks without a plan, and who is to do them."""

from __future__ import annotations

from typing import Protocol

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import TaskRecord
from coordination.flows.tasks.assign_task import Assignment, assign_task
from coordination.flows.tasks.change_priority import change_priority
from coordination.flows.tasks.create_task import create_task
from coordination.runtime import Runtime


class _Connected(Protocol):
    @property
    def runtime(self) -> Runtime: ...


def create_in(runtime: Runtime, run_id: str, task: Task) -> None:
    """Add *task* to a run that exists and wake a worker. Raises NotFound, PlanError or Refused with nothing stored."""
    made = runtime.store.transact(
        lambda tx: create_task(
            tx,
            runtime.workspace_id,
            run_id,
            task,
            actor=runtime.actor,
            lifetime=runtime.settings.supervisor_lifetime,
        )
    )
    runtime.nudge(made.project_id)


class Assignable:
    """The part of a task's handle that says who is to do it."""

    __slots__ = ()

    co: _Connected
    record: TaskRecord

    def assign(self, to: str | None = None, *, model: str | None = None, person: str | None = None) -> Assignment:
        """Give a task that waits to another agent, model or person.

        *to*: an agent's name, ``role:reviewer``, ``label:python``, ``default``, or a program such as ``claude``. The
        task of a *person* waits with the questions, and its answer completes it. Raises NotFound or Refused.
        """
        runtime = self.co.runtime
        done = runtime.store.transact(
            lambda tx: assign_task(
                tx, runtime.workspace_id, self.record.id, actor=runtime.actor, to=to, model=model, person=person
            )
        )
        runtime.nudge(self.record.project_id)
        return done

    def set_priority(self, priority: int) -> bool:
        """Change the priority of an open task; whether it was open."""
        runtime = self.co.runtime
        changed = runtime.store.transact(
            lambda tx: change_priority(tx, runtime.workspace_id, self.record.id, priority, actor=runtime.actor)
        )
        runtime.nudge(self.record.project_id)
        return changed
