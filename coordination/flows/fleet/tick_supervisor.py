"""One tick of a project's supervisor: rescue, heal counters, lift holds, close runs, fill the window, heartbeat.

The tick is the safety net and the home of policy; the hot path (a completion releases and rings) does not need it.
Each step is a short transaction of its own, so a tick that dies in the middle has lost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.services.attempts.close_runs import close_runs
from coordination.services.attempts.end import close_ended_runs
from coordination.services.attempts.end_effects import EndEffects
from coordination.services.attempts.rescue import rescue_expired
from coordination.services.forecast.cost_estimates import expected
from coordination.services.holds import HOLDS
from coordination.services.money import ledger
from coordination.services.money.budgets import Estimator
from coordination.services.tasks import dispatch_window
from coordination.store.engine import Store
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.fleet.supervisors import TickStart
from coordination.store.queries.tasks import attempts, events, ready, runs
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.reports.fleet import supervision

REST = timedelta(seconds=15)
"""A doorbell that nobody answered for this long is rung again, whatever the queue looks like."""

TICK_LEASE = timedelta(seconds=60)
REST_AFTER_ERROR = timedelta(seconds=5)
_RESCUE_ROUNDS = 50


def _alone(_kind: str) -> int:
    """Nothing is known of any kind: one task a message."""
    return 1


@dataclass(slots=True)
class TickResult:
    """What a tick did. ``ring``: doorbells to send now that everything is committed."""

    ring: list[ReadyTask] = field(default_factory=list)
    rescued: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    closed_runs: list[str] = field(default_factory=list)
    ended: bool = False


def tick_supervisor(
    store: Store,
    workspace_id: str,
    project_id: str,
    *,
    holder: str,
    window: int,
    bundle: Callable[[str], int] = _alone,
    enqueue_again_after: timedelta = REST,
    lifetime: timedelta = DEFAULT_LIFETIME,
    lease: timedelta = TICK_LEASE,
    every: timedelta | None = None,
    rest: timedelta = REST_AFTER_ERROR,
    estimator: Estimator = expected,
) -> TickResult | None:
    """Tick the project once; None when somebody else ticks it now or its supervisor has ended.

    ``every``: None as well when it was ticked less than that ago. The rest is as in ``go_on``.
    """
    with store.write() as tx:
        begun = supervisors.begin_tick(tx, workspace_id, project_id, holder=holder, lease=lease, every=every)
    if begun is None:
        return None
    return go_on(
        store,
        begun,
        window=window,
        bundle=bundle,
        enqueue_again_after=enqueue_again_after,
        lifetime=lifetime,
        rest=rest,
        estimator=estimator,
    )


def go_on(
    store: Store,
    begun: TickStart,
    *,
    window: int,
    bundle: Callable[[str], int] = _alone,
    enqueue_again_after: timedelta = REST,
    lifetime: timedelta = DEFAULT_LIFETIME,
    rest: timedelta = REST_AFTER_ERROR,
    estimator: Estimator = expected,
) -> TickResult | None:
    """Do a tick that has begun; None when its lease was lost on the way.

    ``enqueue_again_after``: how old an unanswered doorbell must be to be rung again; short when the queue is known to
    be empty, so that a lost or parked message costs seconds. The tick's own lease says how long nobody else ticks the
    project when this tick dies in the middle; no longer than a worker's, or tasks would wait for their rescue beyond
    what is promised. A tick that takes longer renews it between its steps. ``rest``: after an error, nobody ticks the
    project for that long. *estimator*: what tasks that wait for money are expected to cost.
    """
    try:
        return _tick(store, begun, window, bundle, enqueue_again_after, lifetime, estimator)
    except _Overtaken:
        return None
    except Exception as error:
        # Shown on the row; the heartbeat stays old, so the status turns stale by itself. Others go on.
        with store.write() as tx:
            supervisors.note_error(
                tx,
                begun.workspace_id,
                begun.project_id,
                holder=begun.holder,
                error=f"{type(error).__name__}: {error}",
                rest=rest,
            )
        raise


def _tick(  # noqa: PLR0917 - called once, in the order of its parameters
    store: Store,
    begun: TickStart,
    window: int,
    bundle: Callable[[str], int],
    enqueue_again_after: timedelta,
    lifetime: timedelta,
    estimator: Estimator,
) -> TickResult:
    workspace_id, project_id, holder = begun.workspace_id, begun.project_id, begun.holder
    lease = _Lease(store, begun)
    done = TickResult()
    for _ in range(_RESCUE_ROUNDS):
        lease.keep()
        ended = store.transact(lambda tx: _rescue(tx, workspace_id, project_id))
        done.rescued += sorted(ended.held)
        done.closed_runs += ended.closed_runs
        if not ended.held:
            break
    lease.keep()
    done.healed = store.transact(lambda tx: _heal(tx, workspace_id, project_id))
    done.closed_runs += store.transact(lambda tx: _lift_holds(tx, workspace_id, project_id, estimator))
    lease.keep()

    def fill(tx: Connection) -> list[ReadyTask]:
        # All of them at once: a worker that died with many messages must not keep the window full.
        ready.unmark_unanswered(tx, workspace_id, project_id, age=enqueue_again_after)
        return dispatch_window.fill(tx, workspace_id, project_id, window=window, bundle=bundle)

    done.ring = store.transact(fill)
    with store.write() as tx:
        state = supervision.state_json(tx, workspace_id, project_id)
        idle = not runs.unfinished(tx, workspace_id, project_id)
        idle = idle and attempts.count_open(tx, workspace_id, project_id) == 0
        if idle:
            done.ended = supervisors.end(
                tx, workspace_id, project_id, holder=holder, state=state, submissions=begun.submissions
            )
        if not done.ended:
            supervisors.end_tick(tx, workspace_id, project_id, holder=holder, state=state, lifetime=lifetime)
    return done


class _Overtaken(Exception):
    """The tick took so long that somebody else ticks the project now."""


class _Lease:
    """The tick's own lease, renewed between its steps once a third of it is over: mostly never."""

    def __init__(self, store: Store, begun: TickStart) -> None:
        self._store, self._begun = store, begun
        self._renewed = monotonic()

    def keep(self) -> None:
        """Renew it when it is time; _Overtaken when it was lost."""
        now, begun = monotonic(), self._begun
        if now - self._renewed < begun.lease.total_seconds() / 3:
            return
        with self._store.write() as tx:
            if not supervisors.go_on(tx, begun.workspace_id, begun.project_id, holder=begun.holder, lease=begun.lease):
                raise _Overtaken
        self._renewed = now


def _rescue(tx: Connection, workspace_id: str, project_id: str) -> EndEffects:
    ended = rescue_expired(tx, workspace_id, project_id)
    ledger.settle(tx, workspace_id, [], closing=ended.closing)
    close_ended_runs(tx, workspace_id, ended)
    return ended


def _heal(tx: Connection, workspace_id: str, project_id: str) -> list[str]:
    """Correct what holds count; the names of what was wrong."""
    return [name for hold in HOLDS for name in hold.heal(tx, workspace_id, project_id)]


def _lift_holds(tx: Connection, workspace_id: str, project_id: str, estimator: Estimator) -> list[str]:
    """Unblock what nothing holds any more, and close the runs that are done: which."""
    for hold in HOLDS:
        lifted = hold.lift(tx, workspace_id, project_id, estimator)
        events.append_unblocked(tx, workspace_id, project_id, lifted, actor="supervisor")
    return _close_runs(tx, workspace_id, project_id)


def _close_runs(tx: Connection, workspace_id: str, project_id: str) -> list[str]:
    """The safety net: whoever ends the last task of a run closes it, unless it dies in between."""
    return close_runs(tx, workspace_id, runs.unfinished(tx, workspace_id, project_id), actor="supervisor")
