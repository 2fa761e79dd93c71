"""Preview the claim of a task's next attempt without claiming it."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.domain.agents.prompts import PromptContext
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.tasks import TaskRecord, TaskState
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import dependencies
from coordination.store.reports.agents.prompt_context import dependency_graph, specializations

_COPIED_FIELDS = (
    *("project_id", "run_id", "key", "title", "work", "input", "agent", "timeout", "stall_timeout", "workdir"),
    *("max_attempts", "failures", "deferrals", "repeatable", "options", "carried_over"),
)


def preview_claim(tx: Connection, workspace_id: str, task: TaskRecord) -> tuple[Claim, PromptContext]:
    """Return the unrendered claim and the context of its prompt. For a running task: of the running attempt."""
    project = projects.get(tx, workspace_id, task.project_id)
    name = project.name if project is not None else ""
    claim = Claim(
        task_id=task.id,
        attempt=task.attempt + (task.state is not TaskState.RUNNING),
        workspace_id=workspace_id,
        project=name,
        session_id=None,
        needs=dependencies.outputs_for(tx, workspace_id, [task.id])[task.id],
        python_path=(),
        backoff={},
        **{name: getattr(task, name) for name in _COPIED_FIELDS},
    )
    if project is None:
        return claim, PromptContext(name)
    agents = specializations(tx, workspace_id)
    graph = dependency_graph(tx, workspace_id, task.run_id)
    return claim, PromptContext(project.name, project.path, project.description, project.settings, agents, graph)
