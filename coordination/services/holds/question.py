"""Questions: a task whose agent asked a question, or that a person does, waits for the answer."""

from __future__ import annotations

from collections.abc import Iterator

from coordination.domain.agents.agents import PERSON
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import ExplainedTask, Hold


class QuestionHold(Hold):
    """Set by the end of an attempt; the answer removes it."""

    name = "question"
    reason = BlockReason.QUESTION
    blocker_text = "its agent asked a question and waits for the answer (coord questions)"
    obstacle_text = " asked a question"
    situation = Situation.QUESTION

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield the person who does the task, or the question."""
        person = None if target.task is None else target.task.options.get(PERSON)
        if person is not None and self.reason in target.reasons:
            yield TaskBlocker("person", f"{person} does it", steps=target.steps(Situation.PERSON))
        else:
            yield from super().explain(target)


HOLD = QuestionHold()
