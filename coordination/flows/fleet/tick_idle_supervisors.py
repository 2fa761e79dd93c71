"""Tick many supervisors at once that have nothing to do but to write their heartbeat, or to end.

Where something is due (a lease, a task to enqueue, a run to close, what a hold has to lift or recount), the project
is left to ``tick_supervisor``, alone. All is one transaction that holds the supervisors' rows: no other tick begins
meanwhile, and work that is submitted meanwhile wakes them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.services.holds import DUTIES
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
    """The (workspace, project) pairs that were ticked: of *projects*, or of all that were not ticked for *every*.

    At most AT_ONCE of them, of *workspaces* where they are given. The rest is as in ``tick_supervisor.go_on``.
    """
    with store.write() as tx:
        found = idle_supervisors.lock(
            tx,
            duties=DUTIES,
            every=every,
            projects=projects,
            workspaces=workspaces,
            enqueue_again_after=enqueue_again_after,
            most=AT_ONCE,
        )
        if found:
            ended = idle_supervisors.end(tx, [project for _, project in found], state=supervision.NO_WORK)
            states = {pair: supervision.state_json(tx, *pair) for pair in found if pair[1] not in ended}
            idle_supervisors.renew(tx, states, lifetime=lifetime)
    return found
