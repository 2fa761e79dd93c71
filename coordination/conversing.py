"""What a task's agent is told, what it asks, and what it is answered."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.agents import prompts
from coordination.domain.agents.assignments import PERSON
from coordination.domain.tasks.questions import Question
from coordination.domain.tasks.tasks import TaskRecord, TaskState
from coordination.flows.tasks.force_tasks import force_task
from coordination.runtime import Runtime
from coordination.services.tasks import questions as question_service
from coordination.store.queries.tasks import questions
from coordination.store.reports.tasks.claim_preview import preview


class _Connected(Protocol):
    @property
    def runtime(self) -> Runtime: ...


class Conversing:
    """The part of a task's handle through which people talk with its agent."""

    __slots__ = ()

    co: _Connected
    record: TaskRecord

    def answer(self, text: str) -> bool:
        """Answer the question that the task waits with; whether it may go on now. Raises Refused when it has none.

        The task of a person is completed by it, and gives the text to those that need it.
        """
        runtime = self.co.runtime
        if (person := self.record.options.get(PERSON)) is not None:
            return self._done_by(str(person), text)
        _, ready = runtime.store.transact(
            lambda tx: question_service.answer(tx, runtime.workspace_id, self.record, text, by=runtime.actor)
        )
        runtime.nudge(self.record.project_id)
        return ready

    def _done_by(self, person: str, text: str) -> bool:
        runtime, record = self.co.runtime, self.record

        def done(tx: Connection) -> None:
            question_service.answer(tx, runtime.workspace_id, record, text, by=runtime.actor, agent=person)
            force_task(
                tx,
                runtime.workspace_id,
                record.id,
                TaskState.COMPLETED,
                actor=runtime.actor,
                reason=f"{person} has done it",
                output=text,
                lifetime=runtime.settings.supervisor_lifetime,
            )

        runtime.store.transact(done)
        runtime.nudge(record.project_id)
        return True

    def questions(self) -> list[Question]:
        """What its agent has asked, and was answered."""
        with self.co.runtime.store.read() as tx:
            return questions.of_task(tx, self.co.runtime.workspace_id, self.record.id)

    def prompt(self) -> str:
        """What its agent would be told if it were started now. Raises Refused for a job without a prompt."""
        with self.co.runtime.store.read() as tx:
            claim, project = preview(tx, self.co.runtime.workspace_id, self.record)
        if not claim.job_kind.asks_a_model:
            raise Refused(f"{self.record.key} runs no agent, and has no prompt")
        shows_needs = not prompts.mentions_needs([claim.work["prompt"]])
        ready = prompts.rendered(claim)
        if claim.options.get("bare"):
            return str(ready.work["prompt"])
        return prompts.prompt_of(ready.work["prompt"], ready, project, shows_needs=shows_needs, reports=True)
