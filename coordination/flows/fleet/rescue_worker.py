"""Release the attempts of a dead worker process at once, without waiting for its leases to expire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection

from coordination.base.started_jobs import Started
from coordination.services.attempts.end import close_ended_runs
from coordination.services.attempts.rescue import rescue_worker as end_attempts_of
from coordination.services.money import ledger
from coordination.store.queries.fleet import workers


def rescue_worker(
    tx: Connection, worker_id: str, *, started: Started | None = None, alone: bool = False
) -> list[tuple[str, str]]:
    """End the worker's attempts as lost, and the worker. Return the (workspace, project) pairs to tick now.

    *started*: the attempts whose jobs ran when it died, which are suspected; None: not known. *alone*: it ran only this
    one job, and nothing else died with it: then the job is to blame.
    """
    workers.lock(tx, worker_id)
    ended_by_workspace = [
        (workspace_id, end_attempts_of(tx, workspace_id, worker_id, started=started, alone=alone))
        for workspace_id in workers.workspaces_of_worker(tx, worker_id)
    ]
    to_tick: dict[tuple[str, str], None] = {}
    for workspace_id, ended in ended_by_workspace:  # all slots before any money, see store.queries
        closing = {fence for effects in ended.values() for fence in effects.to_settle}
        ledger.settle(tx, workspace_id, [], closing=closing)
    for workspace_id, ended in ended_by_workspace:
        for project_id, effects in ended.items():
            close_ended_runs(tx, workspace_id, effects)
            to_tick[workspace_id, project_id] = None
    workers.stop(tx, worker_id)
    return list(to_tick)


def rescue_silent_worker(
    tx: Connection, worker_id: str, *, silent_after: timedelta, started: Started | None, end_jobs: Callable[[], object]
) -> list[tuple[str, str]]:
    """Rescue a worker that may only be suspended and resume at any moment. Return as ``rescue_worker``.

    *end_jobs* ends its jobs while its rows are locked, so that it can neither report their deaths as failures nor renew
    a lease. Nothing happens when its last heartbeat is not older than *silent_after*; its jobs stay while another
    transaction has one of its attempts: the next tick tries again.
    """
    if not workers.lock_silent(tx, worker_id, after=silent_after):
        return []
    to_tick = rescue_worker(tx, worker_id, started=started)
    if not workers.workspaces_of_worker(tx, worker_id):
        end_jobs()
    return to_tick
