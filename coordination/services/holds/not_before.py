"""Times: a task that starts no earlier than its plan says, or waits for its next attempt, or for the end of a hold."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, RowMapping

from coordination.domain.fleet.leases import MAX_DEFERRALS
from coordination.domain.jobs.provider_errors import limit_of
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.services.holds.base import HeldTask, Hold, shown
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import idle_supervisors
from coordination.store.queries.tasks import attempts, ready
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

_TIMED = BlockReason.NOT_BEFORE | BlockReason.POLICY
"""Reasons that go away at a time: the task's ``not_before``."""


class NotBefore(Hold):
    """Holds tasks until their start time; also lifts what other holds hold until a moment that they name."""

    name = "not_before"
    reason = BlockReason.NOT_BEFORE
    passes = True
    duty = idle_supervisors.has_blocked(_TIMED, tasks.c.not_before <= db_now())

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Lift what waited for a time that has come."""
        return ready.lift_due(tx, workspace_id, project_id, _TIMED)

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say when the task starts at the earliest, and why it waits that long."""
        if self.reason in held.reasons and held.not_before is not None:
            words = f"does not start before {shown(held.not_before)}"
            then = held.steps(Situation.NOT_BEFORE)
            yield TaskBlocker(self.name, words, via=held.via, until=held.not_before, steps=then)
        task, about = held.task, held.about
        if task is None or task.state is not TaskState.QUEUED or task.not_before is None or task.not_before <= held.now:
            return
        words = f"is tried again from {shown(task.not_before)} on"
        words += f", after: {task.error}" if task.error else ""
        last = attempts.latest(about.tx, about.workspace_id, task.id)
        limit = None if last is None else limit_of(last.details)
        if limit is not None:
            words = f"{limit.sentence()}: it {words}"
        if task.deferred_since is not None:
            words += f" (asked for later {task.deferrals} of {MAX_DEFERRALS} times, since {shown(task.deferred_since)})"
        kind = "back_off" if limit is None else "provider_limit"
        yield TaskBlocker(kind, words, until=task.not_before, steps=about.of(Situation.NOT_BEFORE))


HOLD = NotBefore()
