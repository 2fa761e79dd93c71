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
    person, actor = task.options.get(PERSON), runtime.actor

    def store(tx: Connection, workspace_id: str) -> bool:
        if person is None:
            return question_service.answer(tx, workspace_id, task, text, by=actor)[1]
        question_service.answer(tx, workspace_id, task, text, by=actor, agent=str(person))
        lifetime, reason = runtime.settings.supervisor_lifetime, f"{person} has done it"
        completed = TaskState.COMPLETED
        force_task(tx, workspace_id, task.id, completed, actor=actor, reason=reason, output=text, lifetime=lifetime)
        return True

    ready = runtime.transact(store)
    runtime.wake_project(task.project_id)
    return ready


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
