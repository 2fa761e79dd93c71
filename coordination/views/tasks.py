"""JSON forms of runs, tasks, attempts, events, questions, artifacts and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from coordination.base.urls import masked
from coordination.views.fields import fields_of

if TYPE_CHECKING:
    from coordination.domain.issues.explain import IssueExplanation
    from coordination.domain.jobs.artifacts import Artifact
    from coordination.domain.jobs.last_lines import LastLines
    from coordination.domain.jobs.output import OutputChunk
    from coordination.domain.tasks.attempts import Attempt
    from coordination.domain.tasks.events import Event
    from coordination.domain.tasks.explanations import TaskExplanation
    from coordination.domain.tasks.next_steps import NextStep
    from coordination.domain.tasks.outdated import OutdatedTask
    from coordination.domain.tasks.questions import Question
    from coordination.domain.tasks.tasks import RunRecord, TaskRecord
    from coordination.store.reports.tasks.task_list import TaskLine


def run(record: RunRecord) -> dict[str, Any]:
    """Return a run."""
    return fields_of(record, without=["workspace_id"]) | {"total": record.total}


def run_details(record: RunRecord, tasks: Sequence[dict[str, Any]], steps: Sequence[NextStep]) -> dict[str, Any]:
    """Return a run with its tasks (see ``task_result``) and the commands that continue it."""
    return run(record) | {"tasks": tasks, "steps": [step.to_json() for step in steps]}


def followed_run(details: dict[str, Any], waits_for: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a run that a command has followed, with its obstacles if the command ends before the run."""
    return {**details, "waits_for": waits_for}


def about_run(record: RunRecord, **facts: Any) -> dict[str, Any]:
    """Return the result of a command about a run: its id, its project and *facts*."""
    return {"run": record.id, "project": record.project, **facts}


def task(record: TaskRecord) -> dict[str, Any]:
    """Return a task as stored; the password of a database in its options is masked."""
    return fields_of(record, without=["workspace_id"]) | {"options": _masked(record.options)}


def task_summary(record: TaskRecord | TaskLine, run_id: str) -> dict[str, Any]:
    """Return a task in a list."""
    reasons = record.reasons if isinstance(record.reasons, tuple) else record.reasons.names()
    return {
        "id": record.id,
        "run_id": run_id,
        "key": record.key,
        "title": record.title,
        "state": record.state,
        "reasons": reasons,
        "error": record.error,
        "priority": record.priority,
        "attempt": record.attempt,
        "agent": record.agent,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "finished_at": record.finished_at,
    }


def task_in_list(record: TaskRecord | TaskLine, run_id: str, stale: Sequence[OutdatedTask]) -> dict[str, Any]:
    """Return a task in the list of a run, with its outdated inputs."""
    return task_summary(record, run_id) | {"outdated": [outdated_input(task) for task in stale]}


def task_result(
    record: TaskRecord, output: Any, stale: Sequence[OutdatedTask], last_lines: Sequence[LastLines]
) -> dict[str, Any]:
    """Return a task in the result of a run, with its output and, if it failed, its last lines."""
    more = {"output": output, "last_lines": [lines.to_json() for lines in last_lines]}
    return task_in_list(record, record.run_id, stale) | more


def task_details(
    record: TaskRecord,
    *,
    cost_usd: Decimal,
    unpriced_calls: int,
    attempts: Sequence[Attempt],
    last_lines: Sequence[LastLines],
    explanation: TaskExplanation,
) -> dict[str, Any]:
    """Return a task with its cost, its attempts and why it is not running."""
    return task(record) | {
        "cost_usd": cost_usd,
        "unpriced_calls": unpriced_calls,
        "attempts": [attempt(each) for each in attempts],
        "last_lines": [lines.to_json() for lines in last_lines],
        "explanation": explanation.to_json(),
    }


def task_for_agent(
    record: TaskRecord,
    *,
    output: Any,
    attempts: Sequence[Attempt],
    questions: Sequence[Question],
    last_lines: Sequence[LastLines],
    stale: Sequence[OutdatedTask],
) -> dict[str, Any]:
    """Return a task for an MCP tool: its work, attempts, questions and output."""
    return task_summary(record, record.run_id) | {
        "work": record.work,
        "attempts": [attempt(each) for each in attempts],
        "questions": [question(each) for each in questions],
        "last_lines": [lines.to_json() for lines in last_lines],
        "outdated": [outdated_input(task) for task in stale],
        "output": output,
    }


def about_task(record: TaskRecord, **facts: Any) -> dict[str, Any]:
    """Return the result of a command about a task: its ids and *facts*."""
    return {"task": record.id, "key": record.key, "run": record.run_id, "project_id": record.project_id, **facts}


def attempt(record: Attempt) -> dict[str, Any]:
    """Return an attempt, without its log."""
    return fields_of(record, without=["log"])


def event(record: Event) -> dict[str, Any]:
    """Return an event."""
    return fields_of(record)


def question(record: Question) -> dict[str, Any]:
    """Return a question of an agent, with its answer."""
    return fields_of(record)


def artifact(record: Artifact) -> dict[str, Any]:
    """Return an output file of an attempt."""
    return fields_of(record)


def output_piece(record: OutputChunk) -> dict[str, Any]:
    """Return a piece of an attempt's output."""
    return fields_of(record)


def outdated_input(record: OutdatedTask) -> dict[str, Any]:
    """Return an input of a task that has a newer result than the one the task used."""
    return record.to_json()


def explanation(task: TaskExplanation | None, issue: IssueExplanation | None) -> dict[str, Any]:
    """Return why a task, or an issue, is not running."""
    return {"task": task and task.to_json(), "issue": issue and issue.to_json()}


def _masked(options: Mapping[str, Any]) -> dict[str, Any]:
    from coordination.domain.jobs.checkouts import CHECKOUT_OPTION as CHECKOUT

    checkout = options.get(CHECKOUT)
    if not isinstance(checkout, Mapping) or "database" not in checkout:
        return dict(options)
    database = {**checkout["database"], "clone": masked(str(checkout["database"]["clone"]))}
    return {**options, CHECKOUT: {**checkout, "database": database}}
