"""Start times: of the plan, of the next attempt, and of holds that end at a known time."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, RowMapping

from coordination.domain.fleet.leases import MAX_DEFERRALS
from coordination.domain.jobs.provider_errors import limit_of
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.services.holds.base import ExplainedTask, Hold, format_moment
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import idle_supervisors
from coordination.store.queries.tasks import attempts, ready
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

_TIMED = BlockReason.NOT_BEFORE | BlockReason.POLICY
"""Reasons that are lifted at the task's ``not_before``."""


class NotBeforeHold(Hold):
    """Holds tasks until their start time; also lifts other holds that end at a known time."""

    name = "not_before"
    reason = BlockReason.NOT_BEFORE
    lifts_without_person = True
    tick_condition = idle_supervisors.has_blocked(_TIMED, tasks.c.not_before <= db_now())

    def lift(self, tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[RowMapping]:
        """Lift tasks whose time has come."""
        return ready.lift_due(tx, workspace_id, project_id, _TIMED)

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield the earliest start of the task, and why it waits until then."""
        if self.reason in target.reasons and target.not_before is not None:
            words = f"does not start before {format_moment(target.not_before)}"
            then = target.steps(Situation.NOT_BEFORE)
            yield TaskBlocker(self.name, words, via=target.via, until=target.not_before, steps=then)
        task, about = target.task, target.about
        start = None if task is None or task.state is not TaskState.QUEUED else task.not_before
        if task is None or start is None or start <= target.now:
            return
        words = f"retries at {format_moment(start)}"
        words += f", after: {task.error}" if task.error else ""
        last = attempts.latest(about.tx, about.workspace_id, task.id)
        limit = None if last is None else limit_of(last.details)
        if limit is not None:
            words = f"{limit.sentence()}: it {words}"
        if task.deferred_since is not None:
            since = format_moment(task.deferred_since)
            words += f" (deferred {task.deferrals} of {MAX_DEFERRALS} times, since {since})"
        kind = "back_off" if limit is None else "provider_limit"
        yield TaskBlocker(kind, words, until=start, steps=about.of(Situation.NOT_BEFORE))


HOLD = NotBeforeHold()
