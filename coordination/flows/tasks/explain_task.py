"""Why a task does not run: everything that holds it, directly and through what it waits for, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, select

from coordination.domain.tasks.explanations import TaskBlocker, TaskExplanation
from coordination.domain.tasks.next_steps import NextStep, Situation, steps
from coordination.domain.tasks.tasks import OnDependencyFailure, TaskRecord, TaskState
from coordination.services.forecast.cost_estimates import expected
from coordination.services.holds import HOLDS
from coordination.services.holds.base import HeldTask
from coordination.services.money.budgets import Estimator
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import attempts
from coordination.store.reports.tasks.queueing import in_queue
from coordination.store.reports.tasks.task_steps import TaskSteps, of_ended, waited_for
from coordination.store.types import db_now

_MOST = 1000
_USAGE = "[usage] "  # how a line of a log begins that is about what was reported
_REMARKS = 20

_ALONE = "alone in a process of its own, because a worker died while it ran"


def explain_task(
    tx: Connection,
    workspace_id: str,
    task: TaskRecord,
    *,
    live_within: timedelta,
    window: int | None = None,
    estimator: Estimator = expected,
    here: str | None = None,
) -> TaskExplanation:
    """What holds *task* now, and what goes on. A worker is alive when it was heard of within *live_within*.

    *estimator*: what tasks are expected to cost. *here*: the id of the project in which one stands,
    for the commands to name tasks as they are called there; None: in none.
    """
    about = TaskSteps(tx, workspace_id, task, here)
    found = _explained(about, live_within=live_within, window=window, estimator=estimator)
    latest = attempts.latest(tx, workspace_id, task.id) if task.attempt else None
    lines = (latest.log or "").splitlines() if latest is not None else ()
    return replace(
        found, usage=tuple(line.removeprefix(_USAGE) for line in lines if line.startswith(_USAGE))[:_REMARKS]
    )


def _explained(
    about: TaskSteps, *, live_within: timedelta, window: int | None, estimator: Estimator
) -> TaskExplanation:
    task = about.task
    if task.state is TaskState.RUNNING:
        old = about.outdated()
        return TaskExplanation(task, _running(about), steps=about.of(Situation.RUNNING), outdated=old)
    if task.state not in (TaskState.BLOCKED, TaskState.QUEUED):
        why = f": {task.error}" if task.error else ""
        old = about.outdated()
        return TaskExplanation(task, f"{task.state}{why}", steps=of_ended(about, old), outdated=old)
    now = about.tx.execute(select(db_now())).scalar_one()
    own = HeldTask(about, task.id, task.key, task.reasons, task.not_before, (), now, estimator)
    found = [*_dependencies(about, own), *_holds(own), *_supervisor(about)]
    if task.state is TaskState.QUEUED:
        found += in_queue(about, live_within, window)
    if task.state is TaskState.BLOCKED:
        return TaskExplanation(task, f"blocked ({', '.join(task.reasons.names())})", tuple(found))
    if found:
        return TaskExplanation(task, "queued, held up", tuple(found))
    alone = f", and runs it {_ALONE}" if task.losses else ""
    ready_ = f"ready: the next free worker takes it{alone}"
    return TaskExplanation(task, ready_, steps=about.of(Situation.READY))


def _running(about: TaskSteps) -> str:
    task = about.task
    attempt = attempts.latest(about.tx, about.workspace_id, task.id)
    if attempt is None:
        return "running"
    alone = f", {_ALONE}" if task.losses else ""
    where = attempt.worker or "a worker"
    return f"running since {_when(attempt.started_at)}, attempt {attempt.number} on {where}{alone}"


def _holds(held: HeldTask) -> Iterator[TaskBlocker]:
    for hold in HOLDS:
        yield from hold.explain(held)


def _dependencies(about: TaskSteps, own: HeldTask) -> Iterator[TaskBlocker]:
    """What the task waits for, and what those wait for, each once and by its shortest way."""
    task = about.task
    seen = {task.id}
    level: dict[str, tuple[str, ...]] = {task.id: ()}
    policies = {task.id: task.on_dependency_failure}
    while level and len(seen) < _MOST:
        deeper: dict[str, tuple[str, ...]] = {}
        for row in waited_for(about.tx, about.workspace_id, list(level)):
            if row["id"] in seen:
                continue
            seen.add(row["id"])
            via = level[row["child_id"]]
            then = _after_need(about, row, policies[row["child_id"]])
            yield TaskBlocker("dependency", _waits(row), row["key"], row["state"], via, steps=then)
            if row["state"] == TaskState.BLOCKED:
                deeper[row["id"]] = (*via, row["key"])
                policies[row["id"]] = OnDependencyFailure(row["on_dependency_failure"])
                yield from _holds(
                    replace(
                        own,
                        id=row["id"],
                        key=row["key"],
                        reasons=row["reasons"],
                        not_before=row["not_before"],
                        via=(*via, row["key"]),
                    )
                )
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
    """A supervisor that cannot tick: then nobody rescues, lifts waits, or rings again for the project."""
    found = supervisors.get(about.tx, about.workspace_id, about.task.project_id)
    if found is not None and found.failing_since is not None:
        said = f"its project's supervisor cannot tick since {_when(found.failing_since)}: {found.error}"
        yield TaskBlocker("supervisor", said, steps=steps(Situation.SUPERVISOR))


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
