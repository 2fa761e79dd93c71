"""Why a task does not run: everything that holds it, directly and through what it waits for, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from coordination.domain.assignments import PERSON
from coordination.domain.authority import delegators
from coordination.domain.budgets import Short
from coordination.domain.excerpts import many
from coordination.domain.leases import MAX_DEFERRALS
from coordination.domain.projects import ProjectStatus
from coordination.domain.provider_troubles import ProviderLimit, limit_of
from coordination.domain.task_limits import limit_reached
from coordination.domain.tasks import NO_REASON, BlockReason, OnDependencyFailure, Task, TaskState
from coordination.domain.workspaces import merge_key, run_branch
from coordination.store.queries import attempts, fleet, projects, ready, serving, slots, supervisors
from coordination.store.queries.dependencies import HOLDING
from coordination.store.queries.tasks import BATCH
from coordination.store.tables.attempts import attempts as attempt_rows
from coordination.store.tables.tasks import dependencies, tasks
from coordination.store.types import db_now

d, t = dependencies.c, tasks.c
_MOST = 1000
_USAGE = "[usage] "  # how a line of a log begins that is about what was reported
_REMARKS = 20

_WORDS = {
    BlockReason.APPROVAL: "a person must approve it",
    BlockReason.BUDGET: "nothing is left in a budget that applies to it",
    BlockReason.POLICY: "a policy in force stops it",
    BlockReason.RESERVATION: "a file that it needs is reserved by somebody else",
    BlockReason.QUESTION: "its agent asked a question and waits for the answer (coord questions)",
    BlockReason.LIMIT: "it was tried as often as it may be; let it go on with: coord tasks retry",
    BlockReason.OUTCOME_UNKNOWN: "it must not be repeated, and its worker was lost: nobody knows whether it was done",
}


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that holds the task. ``via``: the keys it comes through, the nearest first; empty when direct."""

    kind: str
    detail: str
    key: str | None = None
    state: str | None = None
    via: tuple[str, ...] = ()
    until: datetime | None = None

    @property
    def way(self) -> str:
        """direct or inherited."""
        return "inherited" if self.via else "direct"

    def line(self) -> str:
        """For people."""
        return f"inherited through {' -> '.join(self.via)}: {self.detail}" if self.via else self.detail

    def to_json(self) -> dict[str, Any]:
        """As printed by --json."""
        return {**asdict(self), "via": list(self.via), "way": self.way}


@dataclass(frozen=True, slots=True)
class TaskExplanation:
    """The whole answer for one task. ``verdict``: its state and what follows from it, as half a sentence.

    ``usage``: what is odd in what its latest attempt has reported of its costs.
    """

    task: Task
    verdict: str
    blockers: tuple[Blocker, ...] = field(default=())
    usage: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people: the verdict, then one line per blocker, then one per remark."""
        usage = [f"  usage: {remark}" for remark in self.usage]
        chain = [f"  delegated by {', by '.join(who)}"] if (who := delegators(self.task.options)) else []
        return [
            f"{self.task.key}: {self.verdict}",
            *chain,
            *(f"  {blocker.line()}" for blocker in self.blockers),
            *usage,
        ]

    def to_json(self) -> dict[str, Any]:
        """As printed by --json."""
        return {
            "id": self.task.id,
            "key": self.task.key,
            "run": self.task.run_id,
            "state": self.task.state.value,
            "reasons": self.task.reasons.names(),
            "verdict": self.verdict,
            "delegated_by": delegators(self.task.options),
            "blockers": [blocker.to_json() for blocker in self.blockers],
            "usage": list(self.usage),
        }


_ALONE = "alone in a process of its own, because a worker died while it ran"


def explain_task(
    tx: Connection,
    workspace_id: str,
    task: Task,
    *,
    live_within: timedelta,
    window: int | None = None,
    lack: Short | None = None,
) -> TaskExplanation:
    """What holds *task* now. A worker counts as alive when it was heard of within *live_within*.

    *lack*: what is missing of which budget, if it waits for money.
    """
    found = _explained(tx, workspace_id, task, live_within=live_within, window=window, lack=lack)
    latest = attempts.latest(tx, workspace_id, task.id) if task.attempt else None
    lines = (latest.log or "").splitlines() if latest is not None else ()
    return replace(
        found, usage=tuple(line.removeprefix(_USAGE) for line in lines if line.startswith(_USAGE))[:_REMARKS]
    )


def _explained(
    tx: Connection, workspace_id: str, task: Task, *, live_within: timedelta, window: int | None, lack: Short | None
) -> TaskExplanation:
    if task.state is TaskState.RUNNING:
        return TaskExplanation(task, _running(tx, workspace_id, task))
    if task.state not in (TaskState.BLOCKED, TaskState.QUEUED):
        why = f": {task.error}" if task.error else ""
        return TaskExplanation(task, f"{task.state}{why}")
    found = [*_dependencies(tx, workspace_id, task), *_own(tx, workspace_id, task, lack)]
    found += _supervisor(tx, workspace_id, task)
    if task.state is TaskState.QUEUED:
        found += _queue(tx, workspace_id, task, live_within, window)
    if task.state is TaskState.BLOCKED:
        return TaskExplanation(task, f"blocked ({', '.join(task.reasons.names())})", tuple(found))
    if found:
        return TaskExplanation(task, "queued, held up", tuple(found))
    alone = f", and runs it {_ALONE}" if task.losses else ""
    return TaskExplanation(task, f"ready: the next free worker takes it{alone}")


def _running(tx: Connection, workspace_id: str, task: Task) -> str:
    attempt = attempts.latest(tx, workspace_id, task.id)
    if attempt is None:
        return "running"
    alone = f", {_ALONE}" if task.losses else ""
    where = attempt.worker or "a worker"
    return f"running since {_when(attempt.started_at)}, attempt {attempt.number} on {where}{alone}"


def _dependencies(tx: Connection, workspace_id: str, task: Task) -> Iterator[Blocker]:
    """What the task waits for, and what those wait for, each once and by its shortest way."""
    seen = {task.id}
    level: dict[str, tuple[str, ...]] = {task.id: ()}
    policies = {task.id: task.on_dependency_failure}
    while level and len(seen) < _MOST:
        deeper: dict[str, tuple[str, ...]] = {}
        for row in _waited_for(tx, workspace_id, list(level)):
            if row["id"] in seen:
                continue
            seen.add(row["id"])
            via = level[row["child_id"]]
            yield Blocker("dependency", _waits(row, policies[row["child_id"]]), row["key"], row["state"], via)
            if row["state"] == TaskState.BLOCKED:
                deeper[row["id"]] = (*via, row["key"])
                policies[row["id"]] = OnDependencyFailure(row["on_dependency_failure"])
                yield from _reasons(row["reasons"] & ~BlockReason.DEPENDENCIES, row["not_before"], (*via, row["key"]))
        level = deeper


def _waited_for(tx: Connection, workspace_id: str, children: list[str]) -> Iterator[RowMapping]:
    for start in range(0, len(children), BATCH):
        yield from tx.execute(
            select(
                d.child_id,
                d.kind,
                t.id,
                t.key,
                t.title,
                t.state,
                t.reasons,
                t.error,
                t.not_before,
                t.on_dependency_failure,
            )
            .join(tasks, t.id == d.parent_id)
            .where(
                d.workspace_id == workspace_id,
                d.child_id.in_(children[start : start + BATCH]),
                d.kind.in_(HOLDING),
                d.satisfied_at.is_(None),
            )
            .order_by(d.child_id, t.id)
        ).mappings()


def _waits(row: RowMapping, policy: OnDependencyFailure) -> str:
    named = f"waits for {row['key']}"
    if row["state"] in (TaskState.FAILED, TaskState.CANCELED):
        why = f" ({row['error']})" if row["error"] else ""
        then = f"; retry it with: coord tasks retry {row['key']}" if policy is OnDependencyFailure.BLOCK else ""
        return f"{named}, which is {row['state']}{why}{then}"
    return f"{named}, which is {row['state']}"


def _own(tx: Connection, workspace_id: str, task: Task, lack: Short | None) -> Iterator[Blocker]:
    now = tx.execute(select(db_now())).scalar_one()
    project = projects.get(tx, workspace_id, task.project_id)
    held = project is not None and project.status is ProjectStatus.ON_HOLD
    if project is not None and (held or BlockReason.PAUSED in task.reasons):
        name = project.name
        yield Blocker("on_hold", f"its project {name} is on hold; let it go on with: coord projects activate {name}")
    apart = BlockReason.BUDGET | BlockReason.LIMIT
    if (person := task.options.get(PERSON)) is not None and BlockReason.QUESTION in task.reasons:
        apart |= BlockReason.QUESTION
        done = f"coord tasks answer {task.key} 'what came of it'"
        yield Blocker("person", f"{person} is to do it; when it is done: {done}")
    yield from _reasons(task.reasons & ~apart, task.not_before)
    if BlockReason.LIMIT in task.reasons:
        met = _provider_limit(tx, workspace_id, task)
        until = "" if met is None or (met.resets_at or now) < now else f" ({met.sentence()})"
        yield Blocker("limit", f"{_limit(task, now)}{until}; let it go on with: coord tasks retry {task.key}")
    if BlockReason.BUDGET in task.reasons:
        there = "waits for a budget, in which there is enough now: it goes on by itself"
        yield Blocker("budget", there if lack is None else f"{lack.sentence()}. {lack.hint()}")
    if task.state is TaskState.QUEUED and task.not_before is not None and task.not_before > now:
        again = f"is tried again from {_when(task.not_before)} on" + (f", after: {task.error}" if task.error else "")
        limit = _provider_limit(tx, workspace_id, task)
        if limit is not None:
            again = f"{limit.sentence()}: it {again}"
        if task.deferred_since is not None:
            again += f" (asked for later {task.deferrals} of {MAX_DEFERRALS} times, since {_when(task.deferred_since)})"
        yield Blocker("back_off" if limit is None else "provider_limit", again, until=task.not_before)


def _provider_limit(tx: Connection, workspace_id: str, task: Task) -> ProviderLimit | None:
    """The provider's limit that the latest attempt has met, if it has."""
    last = attempts.latest(tx, workspace_id, task.id)
    return None if last is None else limit_of(last.details)


def _limit(task: Task, now: datetime) -> str:
    """Which limit the task has reached, and how its last attempt ended."""
    words = limit_reached(
        starts=task.starts,
        most=task.max_starts,
        deferrals=task.deferrals,
        deferred_for=now - (task.deferred_since or now),
        consecutive_losses=task.consecutive_losses,
    )
    return f"{words}; the last time: {task.error}" if task.error else words


def _supervisor(tx: Connection, workspace_id: str, task: Task) -> Iterator[Blocker]:
    """A supervisor that cannot tick: then nobody rescues, lifts waits, or rings again for the project."""
    found = supervisors.get(tx, workspace_id, task.project_id)
    if found is not None and found.failing_since is not None:
        yield Blocker(
            "supervisor", f"its project's supervisor cannot tick since {_when(found.failing_since)}: {found.error}"
        )


def _reasons(reasons: BlockReason, not_before: datetime | None, via: tuple[str, ...] = ()) -> Iterator[Blocker]:
    if BlockReason.NOT_BEFORE in reasons and not_before is not None:
        yield Blocker("not_before", f"does not start before {_when(not_before)}", via=via, until=not_before)
    if via and BlockReason.PAUSED in reasons:
        yield Blocker("on_hold", "its project is on hold", via=via)
    for reason, words in _WORDS.items():
        if reason & reasons != NO_REASON:
            yield Blocker((reason.name or "").lower(), words, via=via)


def _queue(
    tx: Connection, workspace_id: str, task: Task, live_within: timedelta, window: int | None
) -> Iterator[Blocker]:
    """What keeps a task that is ready from being taken."""
    wanted = {"project", f"agent:{task.agent}", f"key:{task.concurrency_key}"}
    for slot in slots.listed(tx, workspace_id, task.project_id):
        if slot["name"] in wanted and slot["used"] >= slot["cap"]:
            users = ", ".join(_holders(tx, workspace_id, task.project_id, slot["name"])) or "nothing any more"
            if slot["name"] == f"key:{merge_key(task.run_id)}":
                yield Blocker("merge", f"waits for its turn to merge to {run_branch(task.run_id)}: now it is {users}")
                continue
            yield Blocker("slot", f"the limit {slot['name']} is reached: {slot['used']}/{slot['cap']} used by {users}")
    ours = serving.live_for(tx, workspace_id, within=live_within)
    free, at_work = sum(row["slots"] for row in ours), fleet.busy(tx)
    if free == 0 and (others := fleet.live_slots(tx, within=live_within)):
        name = serving.name_of(tx, workspace_id)
        yield Blocker(
            "no_worker",
            f"no living worker runs jobs of the workspace {name}: the {many(others, 'place')} that there are run jobs"
            f" of others; start one with: COORD_WORKSPACES={name} coord worker",
        )
    elif free == 0:
        yield Blocker(
            "no_worker", "no worker is alive; start one with: coord up (or coord worker, beside a server's Redis)"
        )
    elif (busy := sum(at_work.get(row["id"], 0) for row in ours)) >= free:
        yield Blocker(
            "busy", f"all {free} places of the living workers are taken ({many(busy, 'job runs', 'jobs run')})"
        )
    if window is not None and not _is_rung(tx, task) and (rung := _rung(tx, workspace_id, task)) >= window:
        yield Blocker(
            "window",
            f"{many(rung, 'task is', 'tasks are')} in the queue already, which is the share of its project",
        )


def _is_rung(tx: Connection, task: Task) -> bool:
    return tx.execute(select(t.rung_at).where(t.id == task.id)).scalar() is not None


def _rung(tx: Connection, workspace_id: str, task: Task) -> int:
    return sum(ready.count_rung(tx, workspace_id, task.project_id).values())


def _holders(tx: Connection, workspace_id: str, project_id: str, slot: str) -> list[str]:
    rows = tx.execute(
        select(t.key, attempt_rows.c.slots)
        .join(attempt_rows, attempt_rows.c.task_id == t.id)
        .where(
            attempt_rows.c.workspace_id == workspace_id,
            attempt_rows.c.project_id == project_id,
            attempt_rows.c.finished_at.is_(None),
            attempt_rows.c.slots.is_not(None),
        )
        .order_by(t.key)
    )
    return [row.key for row in rows if slot in row.slots]


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
