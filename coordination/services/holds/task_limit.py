"""Limits of one task: it was started, was lost or asked for later as often as it may."""

from __future__ import annotations

from collections.abc import Iterator

from coordination.domain.jobs.provider_errors import limit_of
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.task_limits import limit_reached
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import HeldTask, Hold
from coordination.store.queries.tasks import attempts


class TaskLimit(Hold):
    """Held by the end of an attempt; a retry by a person takes the reason away, and the counts begin anew."""

    name = "limit"
    reason = BlockReason.LIMIT
    words = "it was tried as often as it may be"
    remark = " was tried as often as it may be"
    situation = Situation.LIMIT

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say which limit the task has reached, and how its last attempt ended."""
        task, about = held.task, held.about
        if task is None:
            yield from super().explain(held)
            return
        if self.reason not in held.reasons:
            return
        words = limit_reached(
            starts=task.starts,
            most=task.max_starts,
            deferrals=task.deferrals,
            deferred_for=held.now - (task.deferred_since or held.now),
            consecutive_losses=task.consecutive_losses,
        )
        words += f"; the last time: {task.error}" if task.error else ""
        last = attempts.latest(about.tx, about.workspace_id, task.id)
        provider = None if last is None else limit_of(last.details)
        if provider is not None and (provider.resets_at or held.now) >= held.now:
            words += f" ({provider.sentence()})"
        yield TaskBlocker(self.name, words, steps=held.steps(Situation.LIMIT))


HOLD = TaskLimit()
