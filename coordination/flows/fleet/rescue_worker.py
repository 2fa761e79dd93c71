"""Hand back at once what a worker process held that is known to be dead, without waiting for its leases."""

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
    """End the worker's attempts as lost and its life; the (workspace, project) pairs that should be ticked now.

    *started*: the attempts whose jobs it was at when it died, which are suspected; None: nobody knows. *alone*: it
    ran this one job only, and nothing else died with it: then the job is to blame.
    """
    workers.lock(tx, worker_id)
    found = [
        (workspace_id, end_attempts_of(tx, workspace_id, worker_id, started=started, alone=alone))
        for workspace_id in workers.workspaces_of_worker(tx, worker_id)
    ]
    touched: dict[tuple[str, str], None] = {}
    for workspace_id, ended in found:  # all slots come before any money, see store.queries
        ledger.settle(tx, workspace_id, [], closing={fence for one in ended.values() for fence in one.closing})
    for workspace_id, ended in found:
        for project_id, one in ended.items():
            close_ended_runs(tx, workspace_id, one)
            touched[workspace_id, project_id] = None
    workers.stop(tx, worker_id)
    return list(touched)


def rescue_silent_worker(
    tx: Connection, worker_id: str, *, silent_after: timedelta, started: Started | None, end_jobs: Callable[[], object]
) -> list[tuple[str, str]]:
    """The same of a worker that may only be stopped, and go on at any moment: nothing that it says then counts.

    *end_jobs* ends what it has started, while its rows are locked: so it can neither report the deaths of its jobs as
    failures nor renew a lease. Nothing happens when the worker has been heard of within *silent_after*, and its jobs
    are left alone while somebody else is at one of its attempts: the next tick looks again.
    """
    if not workers.lock_silent(tx, worker_id, after=silent_after):
        return []
    touched = rescue_worker(tx, worker_id, started=started)
    if not workers.workspaces_of_worker(tx, worker_id):
        end_jobs()
    return touched
