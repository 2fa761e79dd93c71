"""Tools that look at plans at work, and change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from coordination.client import Coordination, TaskHandle
from coordination.domain.json_values import plain
from coordination.store.queries import questions as question_rows
from coordination.store.reports.explanation import explain_task
from coordination.store.reports.overview import overview

LONGEST_ANSWER = 20_000
"""Characters."""

_MOST = 200


def tools(co: Coordination) -> tuple[Callable[..., str], ...]:
    """The tools, on an open connection."""
    runtime = co.runtime

    def status() -> str:
        """What runs now with its last sign of progress, projects, open runs, living workers, what was spent today."""
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
        return _json([_run(one) for one in co.runs(project=project, limit=20)])

    def tasks(run: str) -> str:
        """The tasks of a run (its id or name): key, state, what holds them."""
        found = co.run(run).tasks()
        told = [_short(task) for task in found[:_MOST]]
        return _json(told if len(found) <= _MOST else [*told, f"… {len(found)} in all"])

    def task(task: str, run: str | None = None) -> str:
        """One task (its key or id) with its attempts, questions and output."""
        found = _task(task, run)
        tried = [
            {"number": one.number, "outcome": one.outcome, "error": one.error, "started_at": one.started_at}
            for one in found.attempts()
        ]
        asked = [{"question": one.question, "answer": one.answer, "by": one.answered_by} for one in found.questions()]
        told = {"title": found.record.title, "runs": found.record.work, "attempts": tried, "questions": asked}
        return _json({**_short(found), **told, "output": found.output})

    def explain(task: str, run: str | None = None) -> str:
        """Everything that holds a task (its key or id), in sentences."""
        found = _task(task, run)
        with runtime.store.read() as tx:
            why = explain_task(
                tx,
                runtime.workspace_id,
                found.record,
                live_within=runtime.settings.lease_ttl,
                window=runtime.settings.window,
            )
        return _bounded("\n".join(why.lines()))

    def questions() -> str:
        """What tasks have asked, and nobody has answered yet."""
        with runtime.store.read() as tx:
            return _json(question_rows.unanswered(tx, runtime.workspace_id))

    def _task(name: str, run: str | None) -> TaskHandle:
        return co.run(run).task(name) if run else co.task(name)

    return (status, runs, tasks, task, explain, questions)


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


def _json(value: Any) -> str:
    return _bounded(json.dumps(plain(value), ensure_ascii=False))


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]}… ({len(text):,} characters in all)"
