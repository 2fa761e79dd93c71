"""What is stuck, late or wrong in a workspace's work: read-only, and through what is open, never through history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, and_, bindparam, exists, func, or_, select

from coordination.base.wording import plural
from coordination.domain.fleet.health import Finding, some
from coordination.domain.fleet.supervisor_status import StatusThresholds, SupervisorStatus, status_of
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.tasks import OPEN, BlockReason, TaskState
from coordination.store.queries.fleet import serving, supervisors
from coordination.store.queries.fleet import workers as fleet
from coordination.store.queries.projects import stops
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.projects.projects import projects
from coordination.store.tables.tasks.attempts import attempts, slots
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_after

t, a, r, p, d, w, s = tasks.c, attempts.c, runs.c, projects.c, dependencies.c, workers.c, slots.c

_NAMED = 5
_RUNS_AT_ONCE = 500
_HELD = (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)


@dataclass(frozen=True, slots=True)
class HealthThresholds:
    """How long something may last before it counts as stuck, and the times of a lease."""

    stuck: timedelta
    lease: timedelta
    late: timedelta  # how long after a lease's end somebody must have noticed


def of_work(
    tx: Connection, workspace_id: str, *, patience: HealthThresholds, thresholds: StatusThresholds
) -> Iterator[Finding]:
    """Everything that this workspace's rows tell."""
    yield from stopped(tx, workspace_id)
    yield from stuck_tasks(tx, workspace_id, patience=patience)
    yield from late_leases(tx, workspace_id, patience=patience)
    yield from idle_supervisors(tx, workspace_id, thresholds=thresholds)
    yield from wrong_slots(tx, workspace_id)


def stopped(tx: Connection, workspace_id: str) -> Iterator[Finding]:
    """Stops that hold the workspace, or projects of it."""
    for stop in stops.active(tx, workspace_id):
        hint = f"Let it go on with: {stop.command}"
        yield Finding("stopped", stop.project or "the workspace", stop.sentence(), hint, wrong=False)


# --- tasks

_SECONDS: BindParameter[float] = bindparam("stuck")
# The runs by name, not by a join: a planner that knows little would look through all tasks for them.
_OF_OPEN_RUNS = (
    select(t.key, t.run_id, p.name.label("project"))
    .join(projects, p.id == t.project_id)
    .where(t.workspace_id == bindparam("ws"), t.run_id.in_(bindparam("runs", expanding=True)))
)
_OPEN_ATTEMPT = exists(select(a.number).where(a.task_id == t.id, a.finished_at.is_(None)))
_OPEN_EDGE = exists(select(d.parent_id).where(d.child_id == t.id, d.kind.in_(HOLDING), d.satisfied_at.is_(None)))
_QUEUED = (
    select(t.key, t.run_id, p.name.label("project"))
    .join(projects, p.id == t.project_id)
    .where(
        t.workspace_id == bindparam("ws"),
        t.state == TaskState.QUEUED,
        or_(t.not_before.is_(None), t.not_before < db_after(-_SECONDS)),
        t.updated_at < db_after(-_SECONDS),
        p.status.not_in(_HELD),
        ~p.stopped,
        ~_OPEN_ATTEMPT,
    )
)
_other = tasks.alias("other")
_MOVES = exists(  # while something of the project is rung or runs, the rest waits for its turn
    select(_other.c.id).where(
        _other.c.project_id == t.project_id,
        _other.c.state == TaskState.QUEUED,
        _other.c.enqueued_at.is_not(None),
    )
) | exists(select(a.number).where(a.project_id == t.project_id, a.finished_at.is_(None)))


def _has(reason: BlockReason) -> Any:
    return t.reasons.op("&")(int(reason)) != 0


@dataclass(frozen=True, slots=True)
class _Kind:
    """One way to be stuck: how such tasks are found, and what to say of them."""

    code: str
    rows: Select[Any]
    says: str
    hint: str
    of_open_runs: bool = False


_KINDS = (
    _Kind(
        "task_not_rung",
        _QUEUED.where(t.enqueued_at.is_(None), ~_MOVES),
        "ready, but no doorbell has been rung for it",
        "A worker's sweep rings within seconds; start one with coord up or coord worker, or read its log",
    ),
    _Kind(
        "task_not_claimed",
        _QUEUED.where(t.enqueued_at < db_after(-_SECONDS)),
        "rung long ago, and nobody came",
        "See coord status: are the workers alive, full, or at another Redis? A worker's restart looks again",
    ),
    _Kind(
        "task_without_attempt",
        _OF_OPEN_RUNS.where(
            t.state == TaskState.RUNNING,
            ~exists(select(a.number).where(a.task_id == t.id, a.number == t.attempt, a.finished_at.is_(None))),
        ),
        "said to run, but no attempt of it is open",
        "Run: coord tasks force {key} queued --run {run} --reason 'no attempt is open'",
        of_open_runs=True,
    ),
    _Kind(
        "task_blocked_by_nothing",
        _OF_OPEN_RUNS.where(
            t.state == TaskState.BLOCKED,
            or_(
                _has(BlockReason.DEPENDENCIES) & or_(t.pending == 0, ~_OPEN_EDGE),
                _has(BlockReason.NOT_BEFORE) & or_(t.not_before.is_(None), t.not_before < db_after(-_SECONDS)),
                _has(BlockReason.PAUSED) & p.status.not_in(_HELD) & ~p.stopped & (t.updated_at < db_after(-_SECONDS)),
            ),
        ),
        "blocked, and what it is said to wait for is over",
        "Run: coord tasks force {key} queued --run {run} --reason 'nothing holds it'",
        of_open_runs=True,
    ),
    _Kind(
        "task_of_ended_run",
        select(t.key, t.run_id, p.name.label("project"))
        .join(projects, p.id == t.project_id)
        .where(
            t.workspace_id == bindparam("ws"),
            t.state == TaskState.QUEUED,
            ~exists(select(r.id).where(r.id == t.run_id, r.finished_at.is_(None))),
        ),
        "queued, although its run has ended",
        "Run: coord tasks force {key} queued --run {run} --reason 'its run was over'",
    ),
)
_UNENDED = select(r.id).where(r.workspace_id == bindparam("ws"), r.finished_at.is_(None)).order_by(r.created_at)
_ENDED_UNWRITTEN = (
    select(r.id, p.name.label("project"))
    .join(projects, p.id == r.project_id)
    .where(
        r.workspace_id == bindparam("ws"),
        r.finished_at.is_(None),
        r.created_at < db_after(-_SECONDS),
        ~exists(select(t.id).where(t.run_id == r.id, t.state.in_(OPEN))),
        ~exists(select(t.id).where(t.run_id == r.id, t.finished_at >= db_after(-_SECONDS))),
    )
    .limit(_NAMED)
)


def stuck_tasks(tx: Connection, workspace_id: str, *, patience: HealthThresholds) -> Iterator[Finding]:
    """Tasks that nothing will move any more, and runs that have ended without anybody writing it down."""
    given = {"ws": workspace_id, "stuck": patience.stuck.total_seconds()}
    unended = list(tx.execute(_UNENDED, {"ws": workspace_id}).scalars())
    for kind in _KINDS:
        found: list[Any] = []
        number = 0
        for more in _parts(kind, unended):
            # In the order of an index, a planner would walk through all of history to find the first ones.
            rows = tx.execute(kind.rows.order_by(t.key).limit(_NAMED + 1), {**given, **more}).all()
            found += rows
            number += len(rows) if len(rows) <= _NAMED else _counted(tx, kind.rows, {**given, **more})
        for row in found[:_NAMED]:
            yield Finding(
                kind.code,
                f"task {row.key} of {row.project}",
                f"It is {kind.says}",
                kind.hint.format(key=row.key, run=row.run_id),
            )
        if number > _NAMED:
            yield Finding(
                kind.code,
                f"{number - _NAMED} more tasks",
                f"They are {kind.says}",
                "Mend the first ones and look again",
            )
    for row in tx.execute(_ENDED_UNWRITTEN, given):
        yield Finding(
            "run_not_closed",
            f"run {row.id} of {row.project}",
            "All its tasks have ended, but its own end is not written",
            f"Its supervisor writes it at its next tick; wake that with: coord resume {row.id}",
        )


def _parts(kind: _Kind, unended: list[str]) -> list[dict[str, Any]]:
    """The parameters of each part in which a kind is asked for."""
    if not kind.of_open_runs:
        return [{}]
    return [{"runs": unended[start : start + _RUNS_AT_ONCE]} for start in range(0, len(unended), _RUNS_AT_ONCE)]


def _counted(tx: Connection, rows: Select[Any], given: dict[str, Any]) -> int:
    return tx.execute(select(func.count()).select_from(rows.subquery()), given).scalar_one()


# --- leases

_LATE = (
    select(t.key, a.number, a.lease_until, w.name, w.host)
    .select_from(attempts)
    .join(tasks, t.id == a.task_id)
    .outerjoin(workers, w.id == a.worker_id)
    .where(
        a.workspace_id == bindparam("ws"),
        a.finished_at.is_(None),
        a.lease_until < db_after(-bindparam("late")),
    )
    .order_by(a.lease_until)
)


def late_leases(tx: Connection, workspace_id: str, *, patience: HealthThresholds) -> Iterator[Finding]:
    """Attempts whose lease ran out and that nobody has rescued."""
    for row in tx.execute(_LATE.limit(_NAMED), {"ws": workspace_id, "late": patience.late.total_seconds()}):
        yield Finding(
            "lease_past_due",
            f"task {row.key}, attempt {row.number}",
            f"Its lease ran out, and nobody has taken it from {row.name or 'its worker'} on {row.host or 'its host'}",
            "Any living worker does so within a sweep; start one with: coord up, or coord worker",
            since=row.lease_until,
        )


# --- supervisors

_WITH_WORK = (
    select(p.id, p.name, p.status, func.count().label("open"))
    .join(runs, r.project_id == p.id)
    .where(r.workspace_id == bindparam("ws"), r.finished_at.is_(None))
    .group_by(p.id, p.name, p.status)
    .order_by(p.name)
)


def idle_supervisors(tx: Connection, workspace_id: str, *, thresholds: StatusThresholds) -> Iterator[Finding]:
    """Projects with open runs whose supervisor fails, is stale, or is not there."""
    for row in tx.execute(_WITH_WORK, {"ws": workspace_id}).all():
        found = supervisors.get(tx, workspace_id, row.id)
        subject = f"supervisor of {row.name}"
        if found is None or found.ended_at is not None:
            yield Finding(
                "supervisor_missing",
                subject,
                f"There is none, although {plural(row.open, 'run is', 'runs are')} open",
                "Give it one with: coord resume RUN",
                since=found.ended_at if found else None,
            )
        elif found.error:
            yield Finding(
                "supervisor_failing",
                subject,
                f"Its ticks fail: {found.error}",
                f"See the workers' logs; until it can tick, nothing of {row.name} is rescued or rung for by it",
                since=found.failing_since,
            )
        elif (status := status_of(found.age, thresholds)) is not SupervisorStatus.RUNNING:
            yield Finding(
                f"supervisor_{status}",
                subject,
                f"It has not ticked for {round(found.age.total_seconds())} s",
                "A living worker ticks it every few seconds; start one with: coord up, or coord worker",
                since=found.heartbeat_at,
            )


# --- slots

_SLOTS = (
    select(s.project_id, s.name, s.used, p.name.label("project"))
    .join(projects, p.id == s.project_id)
    .where(s.workspace_id == bindparam("ws"))
    .order_by(p.name, s.name)
)
_HOLDERS = select(a.project_id, a.slots).where(
    a.workspace_id == bindparam("ws"), a.finished_at.is_(None), a.slots.is_not(None)
)


def wrong_slots(tx: Connection, workspace_id: str) -> Iterator[Finding]:
    """Counters that say something else than the open attempts hold."""
    counters = tx.execute(_SLOTS, {"ws": workspace_id}).all()
    if not counters:
        return
    held: Counter[tuple[str, str]] = Counter()
    for row in tx.execute(_HOLDERS, {"ws": workspace_id}):
        held.update((row.project_id, name) for name in row.slots)
    for slot in counters:
        if (really := held[slot.project_id, slot.name]) != slot.used:
            yield Finding(
                "slot_counter",
                f"limit {slot.name} of {slot.project}",
                f"It counts {slot.used} in use, and {really} are held",
                "The next tick of its supervisor recounts; if it stays, that supervisor does not tick",
            )


# --- workers, of all workspaces


def silent_workers(tx: Connection, *, patience: HealthThresholds) -> Iterator[Finding]:
    """Workers that neither said good-bye nor were heard of for longer than a lease."""
    for row in fleet.silent(tx, after=patience.lease):
        yield Finding(
            "worker_silent",
            f"worker {row['name']} on {row['host']}",
            "It has not been heard of for longer than a lease, and did not say that it stops",
            "What it held runs again by itself. See whether it hangs; start another with: coord up, or coord worker",
            since=row["heartbeat_at"],
        )


def strange_clocks(tx: Connection, *, patience: HealthThresholds, apart: timedelta, besides: str) -> Iterator[Finding]:
    """Machines whose workers' clocks are further than *apart* from the database's; *besides* was looked at already."""
    found: dict[str, tuple[int, timedelta]] = {}
    for row in fleet.live(tx, within=patience.lease):
        ahead = timedelta(0) if row["clock_at"] is None else row["clock_at"] - row["heartbeat_at"]
        if abs(ahead) > apart and row["host"] != besides:
            workers_there, most = found.get(row["host"], (0, timedelta(0)))
            found[row["host"]] = workers_there + 1, max(most, ahead, key=abs)
    for machine, (number, ahead) in sorted(found.items()):
        who = "of its one worker" if number == 1 else f"of {number} workers there"
        yield clock_finding(machine, ahead, who=f"{who}, at the last heartbeat,")


def clock_finding(machine: str, ahead: timedelta, *, who: str = "of this machine") -> Finding:
    """What to say of a clock that is so far ahead of the database's, or, below zero, behind it."""
    way = "ahead of" if ahead > timedelta(0) else "behind"
    return Finding(
        "clock_skew",
        f"clock of {machine}",
        f"The clock {who} is {abs(ahead).total_seconds():.1f} s {way} the database's",
        "Leases do not mind, the times that jobs and costs report do: let NTP set both clocks",
    )


def nobody_works(
    tx: Connection, workspace_id: str, *, patience: HealthThresholds, messages: int | None
) -> Iterator[Finding]:
    """Work or messages, and no worker that takes any. ``messages``: what waits in Redis, None when that is unknown."""
    if any(row["slots"] for row in serving.live_for(tx, workspace_id, within=patience.lease)):
        return
    others = fleet.live_slots(tx, within=patience.lease)
    ready = tx.execute(
        select(t.key)
        .where(t.workspace_id == workspace_id, t.state == TaskState.QUEUED)
        .order_by(t.key)
        .limit(_NAMED + 1)
    ).scalars()
    waiting = list(ready)
    if waiting or (messages and not others):  # with others alive, the messages may be for them
        what = f"tasks are ready ({some(waiting, len(waiting))})" if waiting else f"{messages} messages wait in Redis"
        yield Finding(
            "queue_without_workers",
            "queue jobs",
            f"{what[0].upper()}{what[1:]}, and no worker {'of their workspace ' if others else ''}is alive",
            "Start one with: coord up, or coord worker",
        )


def ended_attempts(
    tx: Connection, workspace_id: str, found: list[tuple[str, int]], *, patience: timedelta
) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Which of these (task id, attempt) pairs ended longer than *patience* ago, and which ever were."""
    ended: set[tuple[str, int]] = set()
    known: set[tuple[str, int]] = set()
    old = and_(a.finished_at.is_not(None), a.finished_at < db_after(-patience.total_seconds()))
    for start in range(0, len(found), 500):
        ids = sorted({task_id for task_id, _ in found[start : start + 500]})
        rows = tx.execute(
            select(a.task_id, a.number, old.label("ended")).where(a.workspace_id == workspace_id, a.task_id.in_(ids))
        )
        for row in rows:
            known.add((row.task_id, row.number))
            if row.ended:
                ended.add((row.task_id, row.number))
    return ended & set(found), known & set(found)
