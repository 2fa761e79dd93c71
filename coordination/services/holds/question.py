"""Questions: a task whose agent has asked something, or that a person is to do, waits for the answer."""

from __future__ import annotations

from collections.abc import Iterator

from coordination.domain.agents.agents import PERSON
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import HeldTask, Hold


class Question(Hold):
    """Held by the end of an attempt; whoever answers takes the reason away."""

    name = "question"
    reason = BlockReason.QUESTION
    words = "its agent asked a question and waits for the answer (coord questions)"
    remark = " asked a question"
    situation = Situation.QUESTION

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say who is to do the task, or that it has asked."""
        person = None if held.task is None else held.task.options.get(PERSON)
        if person is not None and self.reason in held.reasons:
            yield TaskBlocker("person", f"{person} is to do it", steps=held.steps(Situation.PERSON))
        else:
            yield from super().explain(held)


HOLD = Question()
