"""Why a task does not run: everything that holds it, directly and through what it waits for, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, select

from coordination.domain.agents.assignments import PERSON
from coordination.domain.fleet.leases import MAX_DEFERRALS
from coordination.domain.jobs.provider_errors import ProviderLimit, limit_of
from coordination.domain.money.budgets import BudgetShortage
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.explanations import TaskBlocker, TaskExplanation
from coordination.domain.tasks.next_steps import NextStep, Situation, steps
from coordination.domain.tasks.task_limits import limit_reached
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, OnDependencyFailure, TaskRecord, TaskState
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.projects import projects, stops
from coordination.store.queries.tasks import attempts
from coordination.store.reports.tasks.queueing import in_queue
from coordination.store.reports.tasks.task_steps import TaskSteps, of_ended, waited_for
from coordination.store.types import db_now

_MOST = 1000
_USAGE = "[usage] "  # how a line of a log begins that is about what was reported
_REMARKS = 20

_WORDS = {
    BlockReason.APPROVAL: "a person must approve it",
    BlockReason.BUDGET: "nothing is left in a budget that applies to it",
    BlockReason.POLICY: "a policy in force stops it",
    BlockReason.RESERVATION: "a file that it needs is reserved by somebody else",
    BlockReason.QUESTION: "its agent asked a question and waits for the answer (coord questions)",
    BlockReason.LIMIT: "it was tried as often as it may be",
    BlockReason.OUTCOME_UNKNOWN: "it must not be repeated, and was ended in the middle: nobody knows if it was done",
}
_SITUATIONS = {
    BlockReason.QUESTION: Situation.QUESTION,
    BlockReason.LIMIT: Situation.LIMIT,
    BlockReason.OUTCOME_UNKNOWN: Situation.OUTCOME_UNKNOWN,
}


_ALONE = "alone in a process of its own, because a worker died while it ran"


def explain_task(
    tx: Connection,
    workspace_id: str,
    task: TaskRecord,
    *,
    live_within: timedelta,
    window: int | None = None,
    lack: BudgetShortage | None = None,
    here: str | None = None,
) -> TaskExplanation:
    """What holds *task* now, and what goes on. A worker is alive when it was heard of within *live_within*.

    *lack*: what is missing of which budget, if it waits for money. *here*: the id of the project in which one stands,
    for the commands to name tasks as they are called there; None: in none.
    """
    about = TaskSteps(tx, workspace_id, task, here)
    found = _explained(about, live_within=live_within, window=window, lack=lack)
    latest = attempts.latest(tx, workspace_id, task.id) if task.attempt else None
    lines = (latest.log or "").splitlines() if latest is not None else ()
    return replace(
        found, usage=tuple(line.removeprefix(_USAGE) for line in lines if line.startswith(_USAGE))[:_REMARKS]
    )


def _explained(
    about: TaskSteps, *, live_within: timedelta, window: int | None, lack: BudgetShortage | None
) -> TaskExplanation:
    task = about.task
    if task.state is TaskState.RUNNING:
        old = about.outdated()
        return TaskExplanation(task, _running(about), steps=about.of(Situation.RUNNING), outdated=old)
    if task.state not in (TaskState.BLOCKED, TaskState.QUEUED):
        why = f": {task.error}" if task.error else ""
        old = about.outdated()
        return TaskExplanation(task, f"{task.state}{why}", steps=of_ended(about, old), outdated=old)
    found = [*_dependencies(about), *_own(about, lack), *_supervisor(about)]
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


def _dependencies(about: TaskSteps) -> Iterator[TaskBlocker]:
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
                yield from _reasons(
                    about, row["reasons"] & ~BlockReason.DEPENDENCIES, row["not_before"], row, (*via, row["key"])
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


def _own(about: TaskSteps, lack: BudgetShortage | None) -> Iterator[TaskBlocker]:
    tx, workspace_id, task = about.tx, about.workspace_id, about.task
    now = tx.execute(select(db_now())).scalar_one()
    project = projects.get(tx, workspace_id, task.project_id)
    held = project is not None and project.status is ProjectStatus.ON_HOLD
    stop = stops.current(tx, workspace_id, task.project_id)
    if stop is not None:
        yield TaskBlocker("stopped", stop.sentence(), steps=(NextStep("let it go on with", stop.command),))
    if project is not None and (held or (stop is None and BlockReason.PAUSED in task.reasons)):
        then = steps(Situation.ON_HOLD, project=project.name)
        yield TaskBlocker("on_hold", f"its project {project.name} is on hold", steps=then)
    apart = BlockReason.BUDGET | BlockReason.LIMIT
    if (person := task.options.get(PERSON)) is not None and BlockReason.QUESTION in task.reasons:
        apart |= BlockReason.QUESTION
        yield TaskBlocker("person", f"{person} is to do it", steps=about.of(Situation.PERSON))
    yield from _reasons(about, task.reasons & ~apart, task.not_before)
    if BlockReason.LIMIT in task.reasons:
        met = _provider_limit(tx, workspace_id, task)
        until = "" if met is None or (met.resets_at or now) < now else f" ({met.sentence()})"
        yield TaskBlocker("limit", f"{_limit(task, now)}{until}", steps=about.of(Situation.LIMIT))
    if BlockReason.BUDGET in task.reasons:
        there = "waits for a budget, in which there is enough now: it goes on by itself"
        yield TaskBlocker("budget", there if lack is None else f"{lack.sentence()}. {lack.hint()}")
    if task.state is TaskState.QUEUED and task.not_before is not None and task.not_before > now:
        again = f"is tried again from {_when(task.not_before)} on" + (f", after: {task.error}" if task.error else "")
        limit = _provider_limit(tx, workspace_id, task)
        if limit is not None:
            again = f"{limit.sentence()}: it {again}"
        if task.deferred_since is not None:
            again += f" (asked for later {task.deferrals} of {MAX_DEFERRALS} times, since {_when(task.deferred_since)})"
        kind = "back_off" if limit is None else "provider_limit"
        yield TaskBlocker(kind, again, until=task.not_before, steps=about.of(Situation.NOT_BEFORE))


def _provider_limit(tx: Connection, workspace_id: str, task: TaskRecord) -> ProviderLimit | None:
    """The provider's limit that the latest attempt has met, if it has."""
    last = attempts.latest(tx, workspace_id, task.id)
    return None if last is None else limit_of(last.details)


def _limit(task: TaskRecord, now: datetime) -> str:
    """Which limit the task has reached, and how its last attempt ended."""
    words = limit_reached(
        starts=task.starts,
        most=task.max_starts,
        deferrals=task.deferrals,
        deferred_for=now - (task.deferred_since or now),
        consecutive_losses=task.consecutive_losses,
    )
    return f"{words}; the last time: {task.error}" if task.error else words


def _supervisor(about: TaskSteps) -> Iterator[TaskBlocker]:
    """A supervisor that cannot tick: then nobody rescues, lifts waits, or rings again for the project."""
    found = supervisors.get(about.tx, about.workspace_id, about.task.project_id)
    if found is not None and found.failing_since is not None:
        said = f"its project's supervisor cannot tick since {_when(found.failing_since)}: {found.error}"
        yield TaskBlocker("supervisor", said, steps=steps(Situation.SUPERVISOR))


def _reasons(
    about: TaskSteps,
    reasons: BlockReason,
    not_before: datetime | None,
    row: RowMapping | None = None,
    via: tuple[str, ...] = (),
) -> Iterator[TaskBlocker]:
    """What holds the explained task itself, or that of *row*, which it waits for *via* others."""
    of = (None, "") if row is None else (row["id"], row["key"])
    if BlockReason.NOT_BEFORE in reasons and not_before is not None:
        then = about.of(Situation.NOT_BEFORE, *of)
        yield TaskBlocker(
            "not_before", f"does not start before {_when(not_before)}", via=via, until=not_before, steps=then
        )
    if via and BlockReason.PAUSED in reasons:
        yield TaskBlocker(
            "on_hold", "its project is on hold", via=via
        )  # said of the explained task itself, with the step
    for reason, words in _WORDS.items():
        if reason & reasons != NO_REASON:
            situation = _SITUATIONS.get(reason)
            then = () if situation is None else about.of(situation, *of)
            yield TaskBlocker((reason.name or "").lower(), words, via=via, steps=then)


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
