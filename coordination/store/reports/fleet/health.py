"""Findings about stuck, late or wrong work in a workspace. Read-only; reads open work, never history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, and_, bindparam, exists, func, or_, select

from coordination.base.wording import plural
from coordination.domain.fleet.health import Finding, shorten_list
from coordination.domain.fleet.supervisor_status import StatusThresholds, SupervisorStatus, status_of
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.tasks import OPEN, BlockReason, TaskState
from coordination.store.queries.fleet import supervisors
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
_PAUSED = (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)


@dataclass(frozen=True, slots=True)
class HealthThresholds:
    """How long something may last before it counts as stuck, and the times of a lease."""

    stuck: timedelta
    lease: timedelta
    late: timedelta  # how long after a lease's end it must have been rescued


def find_problems(
    tx: Connection, workspace_id: str, *, patience: HealthThresholds, thresholds: StatusThresholds
) -> Iterator[Finding]:
    """Yield the findings of this workspace's rows."""
    yield from list_stops(tx, workspace_id)
    yield from stuck_tasks(tx, workspace_id, patience=patience)
    yield from late_leases(tx, workspace_id, patience=patience)
    yield from idle_supervisors(tx, workspace_id, thresholds=thresholds)
    yield from wrong_slots(tx, workspace_id)


def list_stops(tx: Connection, workspace_id: str) -> Iterator[Finding]:
    """Yield the stops of the workspace and its projects."""
    for stop in stops.list_active(tx, workspace_id):
        hint = f"Start it again with: {stop.command}"
        yield Finding("stopped", stop.project or "the workspace", stop.sentence(), hint, wrong=False)


# --- tasks

_SECONDS: BindParameter[float] = bindparam("stuck")
_TASKS = (
    select(t.key, t.run_id, p.name.label("project"))
    .join(projects, p.id == t.project_id)
    .where(t.workspace_id == bindparam("ws"))
)
# The runs by id, not by a join: with old statistics, a planner would scan all tasks for them.
_OF_OPEN_RUNS = _TASKS.where(t.run_id.in_(bindparam("runs", expanding=True)))
_OPEN_ATTEMPT = exists(select(a.number).where(a.task_id == t.id, a.finished_at.is_(None)))
_OPEN_EDGE = exists(select(d.parent_id).where(d.child_id == t.id, d.kind.in_(HOLDING), d.satisfied_at.is_(None)))
_QUEUED = _TASKS.where(
    t.state == TaskState.QUEUED,
    or_(t.not_before.is_(None), t.not_before < db_after(-_SECONDS)),
    t.updated_at < db_after(-_SECONDS),
    p.status.not_in(_PAUSED),
    ~p.stopped,
    ~_OPEN_ATTEMPT,
)
_other = tasks.alias("other")
_IS_ENQUEUED = (_other.c.state == TaskState.QUEUED, _other.c.enqueued_at.is_not(None))
# While tasks of the project are enqueued or run, the others wait for their turn.
_PROJECT_IS_BUSY = exists(select(_other.c.id).where(_other.c.project_id == t.project_id, *_IS_ENQUEUED)) | exists(
    select(a.number).where(a.project_id == t.project_id, a.finished_at.is_(None))
)


def _has(reason: BlockReason) -> Any:
    return t.reasons.op("&")(int(reason)) != 0


@dataclass(frozen=True, slots=True)
class _StuckKind:
    """One way for tasks to be stuck: the query that finds them, and the sentence and hint to show."""

    code: str
    rows: Select[Any]
    condition: str
    hint: str
    of_open_runs: bool = False


_STUCK_KINDS = (
    _StuckKind(
        "task_not_enqueued",
        _QUEUED.where(t.enqueued_at.is_(None), ~_PROJECT_IS_BUSY),
        "ready, but not enqueued",
        "A worker's sweep enqueues it within seconds; start one with coord up or coord worker, or read its log",
    ),
    _StuckKind(
        "task_not_claimed",
        _QUEUED.where(t.enqueued_at < db_after(-_SECONDS)),
        "enqueued long ago, but not claimed",
        "See coord status: are the workers alive, full, or on another Redis? Restarting a worker enqueues it again",
    ),
    _StuckKind(
        "task_without_attempt",
        _OF_OPEN_RUNS.where(
            t.state == TaskState.RUNNING,
            ~exists(select(a.number).where(a.task_id == t.id, a.number == t.attempt, a.finished_at.is_(None))),
        ),
        "running, but has no open attempt",
        "Run: coord tasks force {key} queued --run {run} --reason 'no attempt is open'",
        of_open_runs=True,
    ),
    _StuckKind(
        "task_blocked_by_nothing",
        _OF_OPEN_RUNS.where(
            t.state == TaskState.BLOCKED,
            or_(
                _has(BlockReason.DEPENDENCIES) & or_(t.pending == 0, ~_OPEN_EDGE),
                _has(BlockReason.NOT_BEFORE) & or_(t.not_before.is_(None), t.not_before < db_after(-_SECONDS)),
                _has(BlockReason.PAUSED) & p.status.not_in(_PAUSED) & ~p.stopped & (t.updated_at < db_after(-_SECONDS)),
            ),
        ),
        "blocked by something that has ended",
        "Run: coord tasks force {key} queued --run {run} --reason 'nothing holds it'",
        of_open_runs=True,
    ),
    _StuckKind(
        "task_of_ended_run",
        _TASKS.where(
            t.state == TaskState.QUEUED, ~exists(select(r.id).where(r.id == t.run_id, r.finished_at.is_(None)))
        ),
        "queued, but its run has ended",
        "Run: coord tasks force {key} queued --run {run} --reason 'its run was over'",
    ),
)
_OPEN_RUNS = select(r.id).where(r.workspace_id == bindparam("ws"), r.finished_at.is_(None)).order_by(r.created_at)
_UNCLOSED_RUNS = (
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
    """Yield tasks that nothing will move any more, and runs whose tasks have ended but that are not closed."""
    values = {"ws": workspace_id, "stuck": patience.stuck.total_seconds()}
    open_runs = list(tx.execute(_OPEN_RUNS, {"ws": workspace_id}).scalars())
    for kind in _STUCK_KINDS:
        stuck: list[Any] = []
        count = 0
        for part in _parts(kind, open_runs):
            # Not in the order of an index, or a planner would scan all of history for the first rows.
            rows = tx.execute(kind.rows.order_by(t.key).limit(_NAMED + 1), {**values, **part}).all()
            stuck += rows
            count += len(rows) if len(rows) <= _NAMED else _count(tx, kind.rows, {**values, **part})
        for row in stuck[:_NAMED]:
            yield Finding(
                kind.code,
                f"task {row.key} of {row.project}",
                f"It is {kind.condition}",
                kind.hint.format(key=row.key, run=row.run_id),
            )
        if count > _NAMED:
            yield Finding(
                kind.code,
                f"{count - _NAMED} more tasks",
                f"They are {kind.condition}",
                "Fix the first ones and look again",
            )
    for row in tx.execute(_UNCLOSED_RUNS, values):
        yield Finding(
            "run_not_closed",
            f"run {row.id} of {row.project}",
            "All its tasks have ended, but the run is not closed",
            f"Its supervisor closes it at its next tick; start one with: coord resume {row.id}",
        )


def _parts(kind: _StuckKind, open_runs: list[str]) -> list[dict[str, Any]]:
    """Return the parameters of each part of a query."""
    if not kind.of_open_runs:
        return [{}]
    return [{"runs": open_runs[start : start + _RUNS_AT_ONCE]} for start in range(0, len(open_runs), _RUNS_AT_ONCE)]


def _count(tx: Connection, rows: Select[Any], values: dict[str, Any]) -> int:
    return tx.execute(select(func.count()).select_from(rows.subquery()), values).scalar_one()


# --- leases

_LATE = (
    select(t.key, a.number, a.lease_until, w.name, w.host)
    .select_from(attempts)
    .join(tasks, t.id == a.task_id)
    .outerjoin(workers, w.id == a.worker_id)
    .where(a.workspace_id == bindparam("ws"), a.finished_at.is_(None), a.lease_until < db_after(-bindparam("late")))
    .order_by(a.lease_until)
)


def late_leases(tx: Connection, workspace_id: str, *, patience: HealthThresholds) -> Iterator[Finding]:
    """Yield attempts whose lease expired without a rescue."""
    for row in tx.execute(_LATE.limit(_NAMED), {"ws": workspace_id, "late": patience.late.total_seconds()}):
        yield Finding(
            "lease_past_due",
            f"task {row.key}, attempt {row.number}",
            f"Its lease has expired, and nobody has rescued it: {row.name or 'its worker'} on {row.host or 'its host'}",
            "Any live worker does so within a sweep; start one with: coord up, or coord worker",
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
    """Yield projects with open runs whose supervisor fails, is stale or is missing."""
    for row in tx.execute(_WITH_WORK, {"ws": workspace_id}).all():
        supervisor = supervisors.get(tx, workspace_id, row.id)
        subject = f"supervisor of {row.name}"
        if supervisor is None or supervisor.ended_at is not None:
            yield Finding(
                "supervisor_missing",
                subject,
                f"There is none, although {plural(row.open, 'run is', 'runs are')} open",
                "Give it one with: coord resume RUN",
                since=supervisor.ended_at if supervisor else None,
            )
        elif supervisor.error:
            yield Finding(
                "supervisor_failing",
                subject,
                f"Its ticks fail: {supervisor.error}",
                f"See the workers' logs; until it can tick, it neither rescues nor enqueues tasks of {row.name}",
                since=supervisor.failing_since,
            )
        elif (status := status_of(supervisor.age, thresholds)) is not SupervisorStatus.RUNNING:
            yield Finding(
                f"supervisor_{status}",
                subject,
                f"It has not ticked for {round(supervisor.age.total_seconds())} s",
                "A live worker ticks it every few seconds; start one with: coord up, or coord worker",
                since=supervisor.heartbeat_at,
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
    """Yield slot counters that differ from the slots of open attempts."""
    counters = tx.execute(_SLOTS, {"ws": workspace_id}).all()
    if not counters:
        return
    used: Counter[tuple[str, str]] = Counter()
    for row in tx.execute(_HOLDERS, {"ws": workspace_id}):
        used.update((row.project_id, name) for name in row.slots)
    for slot in counters:
        if (actual := used[slot.project_id, slot.name]) != slot.used:
            yield Finding(
                "slot_counter",
                f"limit {slot.name} of {slot.project}",
                f"It counts {slot.used} in use, and {actual} are in use",
                "The next tick of its supervisor recounts; if it stays, that supervisor does not tick",
            )


# --- workers, of all workspaces


def silent_workers(tx: Connection, *, patience: HealthThresholds) -> Iterator[Finding]:
    """Yield workers that have not stopped and sent no heartbeat for longer than a lease."""
    for row in fleet.list_silent(tx, after=patience.lease):
        yield Finding(
            "worker_silent",
            f"worker {row['name']} on {row['host']}",
            "It has sent no heartbeat for longer than a lease, and has not stopped",
            "Its tasks run again elsewhere. See whether it hangs; start another with: coord up, or coord worker",
            since=row["heartbeat_at"],
        )


def skewed_clocks(tx: Connection, *, patience: HealthThresholds, apart: timedelta, besides: str) -> Iterator[Finding]:
    """Yield hosts, other than *besides*, whose workers' clocks differ by more than *apart* from the database's."""
    by_host: dict[str, tuple[int, timedelta]] = {}
    for row in fleet.list_live(tx, within=patience.lease):
        ahead = timedelta(0) if row["clock_at"] is None else row["clock_at"] - row["heartbeat_at"]
        if abs(ahead) > apart and row["host"] != besides:
            workers_so_far, most = by_host.get(row["host"], (0, timedelta(0)))
            by_host[row["host"]] = workers_so_far + 1, max(most, ahead, key=abs)
    for host, (count, ahead) in sorted(by_host.items()):
        whose = "of its one worker" if count == 1 else f"of {count} workers there"
        yield clock_finding(host, ahead, whose=f"{whose}, at the last heartbeat,")


def clock_finding(machine: str, ahead: timedelta, *, whose: str = "of this machine") -> Finding:
    """Return the finding for a clock that is *ahead* of the database's, or, below zero, behind it."""
    direction = "ahead of" if ahead > timedelta(0) else "behind"
    return Finding(
        "clock_skew",
        f"clock of {machine}",
        f"The clock {whose} is {abs(ahead).total_seconds():.1f} s {direction} the database's",
        "Leases are not affected, but times of jobs and costs are: let NTP set both clocks",
    )


def unserved_queue(
    tx: Connection, workspace_id: str, *, patience: HealthThresholds, messages: int | None
) -> Iterator[Finding]:
    """Yield a finding when tasks, or *messages* in Redis (None: unknown), wait and no worker takes them."""
    if any(row["slots"] for row in fleet.list_live_for(tx, workspace_id, within=patience.lease)):
        return
    others = fleet.count_live_slots(tx, within=patience.lease)
    ready = select(t.key).where(t.workspace_id == workspace_id, t.state == TaskState.QUEUED).order_by(t.key)
    keys = list(tx.execute(ready.limit(_NAMED + 1)).scalars())
    if keys or (messages and not others):  # with others alive, the messages may be for them
        problem = f"tasks are ready ({shorten_list(keys, len(keys))})" if keys else f"{messages} messages wait in Redis"
        yield Finding(
            "queue_without_workers",
            "queue jobs",
            f"{problem[0].upper()}{problem[1:]}, and no worker {'of their workspace ' if others else ''}is alive",
            "Start one with: coord up, or coord worker",
        )


def ended_attempts(
    tx: Connection, workspace_id: str, keys: list[tuple[str, int]], *, patience: timedelta
) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Return which of these (task id, attempt) *keys* ended longer than *patience* ago, and which are stored."""
    ended: set[tuple[str, int]] = set()
    stored: set[tuple[str, int]] = set()
    old = and_(a.finished_at.is_not(None), a.finished_at < db_after(-patience.total_seconds()))
    for start in range(0, len(keys), 500):
        ids = sorted({task_id for task_id, _ in keys[start : start + 500]})
        rows = tx.execute(
            select(a.task_id, a.number, old.label("ended")).where(a.workspace_id == workspace_id, a.task_id.in_(ids))
        )
        for row in rows:
            stored.add((row.task_id, row.number))
            if row.ended:
                ended.add((row.task_id, row.number))
    return ended & set(keys), stored & set(keys)
