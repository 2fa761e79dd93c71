"""The claim that a task's next attempt would be, without claiming it: to show what its job would get."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.domain.agents.prompts import PromptContext
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.tasks import TaskRecord, TaskState
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import dependencies
from coordination.store.reports.agents.prompt_context import dependency_graph, specializations


def preview(tx: Connection, workspace_id: str, task: TaskRecord) -> tuple[Claim, PromptContext]:
    """The claim, not rendered, and the project around it. Of a running task: the attempt that runs."""
    project = projects.get(tx, workspace_id, task.project_id)
    name = project.name if project is not None else ""
    claim = Claim(
        task_id=task.id,
        attempt=task.attempt + (task.state is not TaskState.RUNNING),
        workspace_id=workspace_id,
        project_id=task.project_id,
        project=name,
        run_id=task.run_id,
        session_id=None,
        key=task.key,
        title=task.title,
        work=task.work,
        input=task.input,
        needs=dependencies.outputs_for(tx, workspace_id, [task.id])[task.id],
        agent=task.agent,
        timeout=task.timeout,
        stall_timeout=task.stall_timeout,
        workdir=task.workdir,
        python_path=(),
        max_attempts=task.max_attempts,
        failures=task.failures,
        deferrals=task.deferrals,
        backoff={},
        repeatable=task.repeatable,
        options=task.options,
        carried=task.carried,
    )
    if project is None:
        return claim, PromptContext(name)
    agents = specializations(tx, workspace_id)
    graph = dependency_graph(tx, workspace_id, task.run_id)
    return claim, PromptContext(project.name, project.path, project.description, project.settings, agents, graph)
