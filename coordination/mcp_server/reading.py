"""Read-only tools: runs, tasks, questions and the status of the system."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from coordination.base.json_values import to_json_types
from coordination.mcp_server.tools import Tool, make_tool
from coordination.views.fields import compact

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.api.tasks import TaskHandle

LONGEST_ANSWER = 20_000
"""Characters."""

_MOST = 200


def tools(connect: Callable[[], Coordination]) -> tuple[Tool, ...]:
    """Return the tools. Each call gets the open connection from *connect*."""

    def status() -> str:
        """Show running tasks with their last sign of progress, projects, open runs, workers and today's cost."""
        from coordination.store.reports.projects.overview import overview
        from coordination.views import fleet as views

        runtime = connect().runtime
        settings = runtime.settings
        system = runtime.read(overview, thresholds=settings.supervision(), live_within=settings.lease_ttl)
        return _json(views.overview(system))

    def runs(*, project: str | None = None) -> str:
        """List the newest runs with state and cost, of all projects or of one."""
        from coordination.views import tasks as views

        return _json([compact(views.run(one)) for one in connect().runs(project=project, limit=20)])

    def tasks(run: str) -> str:
        """List the tasks of a run (its id or name) with key, state and why they wait."""
        from coordination.views import tasks as views

        handles = connect().run(run).tasks()
        rows = [compact(views.task_summary(task.record, task.record.run_id)) for task in handles[:_MOST]]
        return _json(rows if len(handles) <= _MOST else [*rows, f"… {len(handles)} in all"])

    def task(task: str, *, run: str | None = None) -> str:
        """Show a task (its key or id) with its attempts, questions and output."""
        from coordination.domain.tasks.tasks import TaskState
        from coordination.views import tasks as views

        handle = _task(task, run)
        failed = handle.state is TaskState.FAILED
        view = views.task_for_agent(
            handle.record,
            output=handle.output,
            attempts=handle.attempts(),
            questions=handle.questions(),
            last_lines=handle.last_lines() if failed else (),
            stale=() if failed else handle.outdated(),
        )
        return _json(compact(view))

    def explain(task: str, *, run: str | None = None) -> str:
        """Explain why a task (its key or id) is not running, with the commands that help."""
        return _truncate("\n".join(_task(task, run).explain().lines()))

    def questions() -> str:
        """List the open questions of agents."""
        from coordination.views import tasks as views

        return _json([compact(views.question(one)) for one in connect().questions.list()])

    def _task(name: str, run: str | None) -> TaskHandle:
        co = connect()
        return co.run(run).task(name) if run else co.task(name)

    return tuple(map(make_tool, (status, runs, tasks, task, explain, questions)))


def _json(value: Any) -> str:
    return _truncate(json.dumps(to_json_types(value), ensure_ascii=False))


def _truncate(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]}… ({len(text):,} characters in all)"
