"""Tick many supervisors at once that only need to write their heartbeat, or to end.

Projects with anything due (a lease, a task to enqueue, a run to close, a hold to lift or recount) are left to
``tick_supervisor``. One transaction locks all supervisors' rows: no other tick begins meanwhile, and work that is
submitted meanwhile restarts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.services.holds import TICK_CONDITIONS
from coordination.store.engine import Store
from coordination.store.queries.fleet import idle_supervisors
from coordination.store.reports.fleet import supervision

AT_ONCE = 100


def tick_quiet(
    store: Store,
    *,
    enqueue_again_after: timedelta,
    every: timedelta | None = None,
    projects: Sequence[str] = (),
    workspaces: Sequence[str] | None = None,
    lifetime: timedelta = DEFAULT_LIFETIME,
) -> list[tuple[str, str]]:
    """Tick *projects*, or all not ticked for *every*, and return the ticked (workspace, project) pairs.

    At most AT_ONCE, and only of *workspaces*, if given. The other parameters are as in ``tick_supervisor.run_tick``.
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
