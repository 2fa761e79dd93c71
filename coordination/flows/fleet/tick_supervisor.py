"""One tick of a project's supervisor: rescue, heal counters, lift holds, close runs, fill the window, heartbeat.

The tick is the safety net; the hot path (an end releases and enqueues tasks) does not need it. Each step is a short
transaction, so that a tick that dies in the middle loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.services.attempts.end import EndEffects, close_ended_runs, close_runs
from coordination.services.attempts.rescue import rescue_expired
from coordination.services.holds import HOLDS, TICK_CONDITIONS
from coordination.services.money import ledger
from coordination.services.money.budgets import Estimator
from coordination.services.tasks import dispatch_window
from coordination.store.engine import Store
from coordination.store.queries.fleet import idle_supervisors, supervisors
from coordination.store.queries.fleet.supervisors import TickStart
from coordination.store.queries.tasks import attempts, events, ready, runs
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.reports.fleet import supervision

REST = timedelta(seconds=15)
"""A task that was enqueued this long ago and not claimed is enqueued again, whatever is in the queue."""

AT_ONCE = 100
"""The most projects that one transaction of ``tick_quiet`` ticks."""

_RESCUE_ROUNDS = 50


@dataclass(slots=True)
class TickResult:
    """The result of a tick. ``ring``: tasks to enqueue now that everything is committed."""

    ring: list[ReadyTask] = field(default_factory=list)
    rescued: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    closed_runs: list[str] = field(default_factory=list)
    ended: bool = False


def run_tick(
    store: Store,
    start: TickStart,
    *,
    window: int,
    bundle: Callable[[str], int],
    enqueue_again_after: timedelta,
    lifetime: timedelta,
    rest: timedelta,
    estimator: Estimator,
) -> TickResult | None:
    """Run a tick that has begun. Return None when its lease was lost on the way.

    ``enqueue_again_after``: the age of an unclaimed message at which its task is enqueued again; short when the queue
    is known to be empty, so that a lost or prefetched message costs seconds. The tick's lease limits how long nobody
    else ticks the project if this tick dies; it must not exceed a worker's lease, or rescues would take longer than
    promised. A longer tick renews it between its steps. ``rest``: after an error, nobody ticks the project for that
    long. *estimator*: the expected costs of tasks that wait for money.
    """
    workspace_id, project_id, owner = start.workspace_id, start.project_id, start.owner
    result = TickResult()
    with _Lease(store, start, rest) as lease:
        for _ in range(_RESCUE_ROUNDS):
            lease.keep()
            ended = store.transact(lambda tx: _rescue(tx, workspace_id, project_id))
            result.rescued += sorted(ended.moved_tasks)
            result.closed_runs += ended.closed_runs
            if not ended.moved_tasks:
                break
        lease.keep()
        result.healed = store.transact(
            lambda tx: [name for hold in HOLDS for name in hold.repair(tx, workspace_id, project_id)]
        )
        result.closed_runs += store.transact(lambda tx: _lift_holds(tx, workspace_id, project_id, estimator))
        lease.keep()

        def fill(tx: Connection) -> list[ReadyTask]:
            # All at once: the messages of a dead worker must not keep the window full.
            ready.unmark_stale(tx, workspace_id, project_id, age=enqueue_again_after)
            return dispatch_window.fill_window(tx, workspace_id, project_id, window=window, bundle=bundle)

        result.ring = store.transact(fill)
        with store.write() as tx:
            state = supervision.state_json(tx, workspace_id, project_id)
            idle = not runs.list_unfinished(tx, workspace_id, project_id)
            idle = idle and attempts.count_open(tx, workspace_id, project_id) == 0
            if idle:
                result.ended = supervisors.end(
                    tx, workspace_id, project_id, owner=owner, state=state, submissions=start.submissions
                )
            if not result.ended:
                supervisors.end_tick(tx, workspace_id, project_id, owner=owner, state=state, lifetime=lifetime)
        return result
    return None


class _LeaseLost(Exception):
    """The tick took so long that another one began."""


class _Lease:
    """The tick's lease, renewed between its steps once a third of it is over. Leaving the block stores an error."""

    def __init__(self, store: Store, start: TickStart, rest: timedelta) -> None:
        self._store, self._start, self._rest = store, start, rest
        self._renewed = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Exception) and not isinstance(error, _LeaseLost):
            # Stored in the row for people; the heartbeat stays old, so the status becomes stale.
            why, scope = f"{type(error).__name__}: {error}", (self._start.workspace_id, self._start.project_id)
            with self._store.write() as tx:
                supervisors.note_error(tx, *scope, owner=self._start.owner, error=why, rest=self._rest)
        return isinstance(error, _LeaseLost)

    def keep(self) -> None:
        """Renew the lease when it is time. Raises _LeaseLost."""
        now, start = monotonic(), self._start
        if now - self._renewed < start.lease.total_seconds() / 3:
            return
        with self._store.write() as tx:
            if not supervisors.renew_tick(
                tx, start.workspace_id, start.project_id, owner=start.owner, lease=start.lease
            ):
                raise _LeaseLost
        self._renewed = now


def _rescue(tx: Connection, workspace_id: str, project_id: str) -> EndEffects:
    ended = rescue_expired(tx, workspace_id, project_id)
    ledger.settle(tx, workspace_id, [], closing=ended.to_settle)
    close_ended_runs(tx, workspace_id, ended)
    return ended


def _lift_holds(tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[str]:
    """Unblock tasks without a hold, and close runs that have ended. Return the runs.

    A process that dies after it has ended the last task of a run leaves the run open.
    """
    for hold in HOLDS:
        lifted = hold.lift(tx, workspace_id, project_id, estimator)
        events.append_unblocked(tx, workspace_id, project_id, lifted, actor="supervisor")
    return close_runs(tx, workspace_id, runs.list_unfinished(tx, workspace_id, project_id), actor="supervisor")


def tick_quiet(
    store: Store,
    *,
    enqueue_again_after: timedelta,
    every: timedelta | None = None,
    projects: Sequence[str] = (),
    workspaces: Sequence[str] | None = None,
    lifetime: timedelta = DEFAULT_LIFETIME,
) -> list[tuple[str, str]]:
    """Tick many supervisors that only need to write their heartbeat, or to end. Return (workspace, project) pairs.

    Ticks *projects*, or all not ticked for *every*: at most AT_ONCE, and only of *workspaces*, if given. Projects with
    anything due (a lease, a task to enqueue, a run to close, a hold to lift or recount) are left to ``run_tick``. One
    transaction locks all supervisors' rows: no other tick begins meanwhile, and work that is submitted meanwhile
    restarts them. The other parameters are as in ``run_tick``.
    """
    with store.write() as tx:
        locked = idle_supervisors.lock(
            tx,
            duties=TICK_CONDITIONS,
            every=every,
            projects=projects,
            workspaces=workspaces,
            enqueue_again_after=enqueue_again_after,
            limit=AT_ONCE,
        )
        if locked:
            ended = idle_supervisors.end(tx, [project for _, project in locked], state=supervision.NO_WORK)
            states = {pair: supervision.state_json(tx, *pair) for pair in locked if pair[1] not in ended}
            idle_supervisors.renew(tx, states, lifetime=lifetime)
    return locked
