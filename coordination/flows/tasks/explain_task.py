"""Explain why a task does not run: everything that blocks it, directly and through the tasks that it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection, RowMapping, select

from coordination.domain.tasks.explanations import TaskBlocker, TaskExplanation
from coordination.domain.tasks.next_steps import NextStep, Situation, steps
from coordination.domain.tasks.tasks import OnDependencyFailure, TaskRecord, TaskState
from coordination.services.forecast.cost_estimates import unpriced_estimator
from coordination.services.holds import HOLDS
from coordination.services.holds.base import ExplainedTask, format_moment
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import attempts
from coordination.store.reports.tasks.queueing import find_queue_blockers
from coordination.store.reports.tasks.task_steps import TaskSteps, open_dependencies, steps_after_end
from coordination.store.types import db_now

_MOST = 1000
_USAGE = "[usage] "  # the prefix of log lines about cost reports
_REMARKS = 20

_ALONE = "alone in its own process, because a worker died while it ran"


def explain_task(
    tx: Connection,
    workspace_id: str,
    task: TaskRecord,
    *,
    live_within: timedelta,
    window: int | None = None,
    estimator: Estimator = unpriced_estimator,
    here: str | None = None,
) -> TaskExplanation:
    """Explain why *task* does not run, or its state. A worker is alive if its last heartbeat is within *live_within*.

    *estimator* estimates the costs of tasks. *here*: the id of the project of the current directory, which decides how
    commands name tasks; None: no project.
    """
    about = TaskSteps(tx, workspace_id, task, here)
    explanation = _explain(about, live_within=live_within, window=window, estimator=estimator)
    latest = attempts.latest(tx, workspace_id, task.id) if task.attempt else None
    lines = (latest.log or "").splitlines() if latest is not None else ()
    return replace(
        explanation, usage=tuple(line.removeprefix(_USAGE) for line in lines if line.startswith(_USAGE))[:_REMARKS]
    )


def _explain(about: TaskSteps, *, live_within: timedelta, window: int | None, estimator: Estimator) -> TaskExplanation:
    task = about.task
    if task.state is TaskState.RUNNING:
        old = about.outdated()
        return TaskExplanation(task, _running(about), steps=about.of(Situation.RUNNING), outdated=old)
    if task.state not in (TaskState.BLOCKED, TaskState.QUEUED):
        why = f": {task.error}" if task.error else ""
        old = about.outdated()
        return TaskExplanation(task, f"{task.state}{why}", steps=steps_after_end(about, old), outdated=old)
    now = about.tx.execute(select(db_now())).scalar_one()
    own = ExplainedTask(about, task.id, task.key, task.reasons, task.not_before, (), now, estimator)
    blockers = [*_dependencies(about, own), *_holds(own), *_supervisor(about)]
    if task.state is TaskState.QUEUED:
        blockers += find_queue_blockers(about, live_within, window)
    if task.state is TaskState.BLOCKED:
        return TaskExplanation(task, f"blocked ({', '.join(task.reasons.names())})", tuple(blockers))
    if blockers:
        return TaskExplanation(task, "queued, but cannot start", tuple(blockers))
    alone = f", {_ALONE}" if task.losses else ""
    ready_ = f"ready: the next idle worker runs it{alone}"
    return TaskExplanation(task, ready_, steps=about.of(Situation.READY))


def _running(about: TaskSteps) -> str:
    task = about.task
    attempt = attempts.latest(about.tx, about.workspace_id, task.id)
    if attempt is None:
        return "running"
    alone = f", {_ALONE}" if task.losses else ""
    where = attempt.worker or "a worker"
    return f"running since {format_moment(attempt.started_at)}, attempt {attempt.number} on {where}{alone}"


def _holds(target: ExplainedTask) -> Iterator[TaskBlocker]:
    for hold in HOLDS:
        yield from hold.explain(target)


def _dependencies(about: TaskSteps, own: ExplainedTask) -> Iterator[TaskBlocker]:
    """Yield the dependencies that the task waits for, also indirectly, each once by its shortest path."""
    task = about.task
    seen = {task.id}
    level: dict[str, tuple[str, ...]] = {task.id: ()}
    policies = {task.id: task.on_dependency_failure}
    while level and len(seen) < _MOST:
        deeper: dict[str, tuple[str, ...]] = {}
        for row in open_dependencies(about.tx, about.workspace_id, list(level)):
            if row["id"] in seen:
                continue
            seen.add(row["id"])
            via = level[row["child_id"]]
            then = _after_need(about, row, policies[row["child_id"]])
            yield TaskBlocker("dependency", _waits(row), row["key"], row["state"], via, steps=then)
            if row["state"] == TaskState.BLOCKED:
                deeper[row["id"]] = (*via, row["key"])
                policies[row["id"]] = OnDependencyFailure(row["on_dependency_failure"])
                columns = {name: row[name] for name in ("id", "key", "reasons", "not_before")}
                yield from _holds(replace(own, **columns, via=deeper[row["id"]]))
        level = deeper


def _waits(row: RowMapping) -> str:
    why = ""
    if row["state"] in (TaskState.FAILED, TaskState.CANCELED) and row["error"]:
        why = f" ({row['error']})"
    return f"waits for {row['key']}, which is {row['state']}{why}"


def _after_need(about: TaskSteps, row: RowMapping, policy: OnDependencyFailure) -> tuple[NextStep, ...]:
    if row["state"] not in (TaskState.FAILED, TaskState.CANCELED) or policy is not OnDependencyFailure.BLOCK:
        return ()
    return steps(Situation.NEED_ENDED_BADLY, need=about.name(row["id"], row["key"]))


def _supervisor(about: TaskSteps) -> Iterator[TaskBlocker]:
    """Yield a failing supervisor, without which attempts, holds and messages are not recovered."""
    supervisor = supervisors.get(about.tx, about.workspace_id, about.task.project_id)
    if supervisor is not None and supervisor.failing_since is not None:
        since = format_moment(supervisor.failing_since)
        detail = f"its project's supervisor has been failing since {since}: {supervisor.error}"
        yield TaskBlocker("supervisor", detail, steps=steps(Situation.SUPERVISOR))
