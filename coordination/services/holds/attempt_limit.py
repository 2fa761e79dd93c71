"""Limits of one task: on starts, losses and deferrals."""

from __future__ import annotations

from collections.abc import Iterator

from coordination.domain.jobs.provider_errors import limit_of
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.tasks import BlockReason, describe_limit
from coordination.services.holds.base import ExplainedTask, Hold
from coordination.store.queries.tasks import attempts


class AttemptLimitHold(Hold):
    """Set by the end of an attempt; a retry by a person removes it and resets the counters."""

    name = "limit"
    reason = BlockReason.LIMIT
    blocker_text = "it reached a limit of its attempts"
    obstacle_text = " reached a limit of its attempts"
    situation = Situation.LIMIT

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield the limit that the task has reached, and the error of its last attempt."""
        task, about = target.task, target.about
        if task is None:
            yield from super().explain(target)
            return
        if self.reason not in target.reasons:
            return
        words = describe_limit(
            starts=task.starts,
            max_starts=task.max_starts,
            deferrals=task.deferrals,
            deferred_for=target.now - (task.deferred_since or target.now),
            consecutive_losses=task.consecutive_losses,
        )
        words += f"; the last time: {task.error}" if task.error else ""
        last = attempts.latest(about.tx, about.workspace_id, task.id)
        provider = None if last is None else limit_of(last.details)
        if provider is not None and (provider.resets_at or target.now) >= target.now:
            words += f" ({provider.sentence()})"
        yield TaskBlocker(self.name, words, steps=target.steps(Situation.LIMIT))


HOLD = AttemptLimitHold()
