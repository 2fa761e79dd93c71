"""Questions of agents: list the open ones, answer one, and show the prompt that an agent would get."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.api.names import find_project_id
from coordination.base.errors import Refused
from coordination.domain.agents import prompts
from coordination.domain.agents.agents import PERSON
from coordination.domain.tasks.questions import Question
from coordination.domain.tasks.tasks import TaskRecord, TaskState
from coordination.flows.tasks.force_tasks import force_task
from coordination.runtime import Runtime
from coordination.services.tasks import questions as question_service
from coordination.store.queries.tasks import questions
from coordination.store.reports.tasks.claim_preview import preview_claim


class Questions:
    """The open questions of a workspace: ``co.questions``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self, *, project: str | None = None) -> Sequence[Question]:
        """Return the open questions, oldest first, of one project or of all."""
        return self._runtime.read(questions.list_unanswered, project_id=find_project_id(self._runtime, project))


def answer(runtime: Runtime, task: TaskRecord, text: str) -> bool:
    """Answer the open question of *task*; True if the task can run now. Raises Refused when it has none."""
    person = task.options.get(PERSON)
    if person is not None:
        _complete_for_person(runtime, task, str(person), text)
        return True
    _, ready = runtime.transact(question_service.answer, task, text, by=runtime.actor)
    runtime.wake_project(task.project_id)
    return ready


def _complete_for_person(runtime: Runtime, task: TaskRecord, person: str, text: str) -> None:
    """Complete the task of *person* with *text* as its output."""

    def store(tx: Connection) -> None:
        question_service.answer(tx, runtime.workspace_id, task, text, by=runtime.actor, agent=person)
        force_task(
            tx,
            runtime.workspace_id,
            task.id,
            TaskState.COMPLETED,
            actor=runtime.actor,
            reason=f"{person} has done it",
            output=text,
            lifetime=runtime.settings.supervisor_lifetime,
        )

    runtime.store.transact(store)
    runtime.wake_project(task.project_id)


def prompt_of(runtime: Runtime, task: TaskRecord) -> str:
    """Return the prompt that the agent of *task* would get now. Raises Refused for a job without a prompt."""
    claim, project = runtime.read(preview_claim, task)
    if not claim.job_kind.asks_a_model:
        raise Refused(f"{task.key} does not run an agent and has no prompt")
    shows_needs = not prompts.mentions_needs([claim.work["prompt"]])
    ready = prompts.render_job(claim)
    if claim.options.get("bare"):
        return str(ready.work["prompt"])
    return prompts.build_prompt(ready.work["prompt"], ready, project, shows_needs=shows_needs, reports=True)
