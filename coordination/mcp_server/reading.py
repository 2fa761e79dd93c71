"""Tools that look at plans at work, and change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from coordination.mcp_server.tools import TEXT, Tool

if TYPE_CHECKING:
    from coordination.client import Coordination, TaskHandle

LONGEST_ANSWER = 20_000
"""Characters."""

_MOST = 200


def tools(connect: Callable[[], Coordination]) -> tuple[Tool, ...]:
    """Return the tools. Each call of one asks *connect* for the open connection."""

    def status() -> str:
        """What runs now with its last sign of progress, projects, open runs, living workers, what was spent today."""
        from coordination.store.reports.projects.overview import overview

        runtime = connect().runtime
        with runtime.store.read() as tx:
            found = overview(
                tx,
                runtime.workspace_id,
                thresholds=runtime.settings.supervision(),
                live_within=runtime.settings.lease_ttl,
            )
        return _json(found)

    def runs(project: str | None = None) -> str:
        """The newest runs with their state and cost, of one project or of all."""
        return _json([_run(one) for one in connect().runs(project=project, limit=20)])

    def tasks(run: str) -> str:
        """The tasks of a run (its id or name): key, state, what holds them."""
        found = connect().run(run).tasks()
        told = [_short(task) for task in found[:_MOST]]
        return _json(told if len(found) <= _MOST else [*told, f"… {len(found)} in all"])

    def task(task: str, run: str | None = None) -> str:
        """One task (its key or id) with its attempts, questions and output."""
        found = _task(task, run)
        tried = [
            {"number": one.number, "outcome": one.outcome, "error": one.error, "started_at": one.started_at}
            | ({} if one.account is None else {"account": one.account})
            for one in found.attempts()
        ]
        asked = [{"question": one.question, "answer": one.answer, "by": one.answered_by} for one in found.questions()]
        told = {"title": found.record.title, "runs": found.record.work, "attempts": tried, "questions": asked}
        return _json({**_short(found), **told, **_ended(found), "output": found.output})

    def explain(task: str, run: str | None = None) -> str:
        """Everything that holds a task (its key or id), in sentences, with the commands that go on."""
        from coordination.budgeting import current_estimator
        from coordination.flows.tasks.explain_task import explain_task
        from coordination.lookups import project_here

        co = connect()
        found, runtime = _task(task, run), co.runtime
        here = project_here(runtime)
        with runtime.store.read() as tx:
            why = explain_task(
                tx,
                runtime.workspace_id,
                found.record,
                live_within=runtime.settings.lease_ttl,
                window=runtime.settings.window,
                estimator=current_estimator(tx, runtime.workspace_id),
                here=None if here is None else here.id,
            )
        return _bounded("\n".join(why.lines()))

    def questions() -> str:
        """What tasks have asked, and nobody has answered yet."""
        from coordination.store.queries.tasks import questions as question_rows

        runtime = connect().runtime
        with runtime.store.read() as tx:
            return _json(question_rows.unanswered(tx, runtime.workspace_id))

    def _task(name: str, run: str | None) -> TaskHandle:
        co = connect()
        return co.run(run).task(name) if run else co.task(name)

    of_one = {"task": TEXT, "run": TEXT}
    return (
        Tool(status),
        Tool(runs, {"project": TEXT}),
        Tool(tasks, {"run": TEXT}, ("run",)),
        Tool(task, of_one, ("task",)),
        Tool(explain, of_one, ("task",)),
        Tool(questions),
    )


def _run(run: Any) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "project": run.project,
        "state": run.state,
        "tasks": run.counts,
        "cost_usd": run.cost_usd,
    }


def _short(task: TaskHandle) -> dict[str, Any]:
    record = task.record
    told = {
        "key": task.key,
        "id": task.id,
        "run": record.run_id,
        "state": task.state,
        "held_by": record.reasons.names(),
        "error": task.error,
        "agent": record.agent,
    }
    return {name: value for name, value in told.items() if value}


def _ended(task: TaskHandle) -> dict[str, Any]:
    """The last lines of what a failed task printed; what another was given that is out of date."""
    from coordination.domain.tasks.tasks import TaskState

    told: dict[str, Any] = {}
    if task.state is TaskState.FAILED:
        told["last_lines"] = {one.stream: list(one.lines) for one in task.last_lines()}
    elif old := task.outdated():
        told["outdated"] = [one.sentence() for one in old]
    return told


def _json(value: Any) -> str:
    from coordination.base.json_values import plain

    return _bounded(json.dumps(plain(value), ensure_ascii=False))


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]}… ({len(text):,} characters in all)"
