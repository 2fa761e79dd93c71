"""Hand back at once what a worker process held that is known to be dead, without waiting for its leases."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.services import ledger
from coordination.services.endings.end import close_ended_runs
from coordination.services.endings.rescue import rescue_worker as end_attempts_of
from coordination.store.queries import fleet


def rescue_worker(tx: Connection, worker_id: str) -> list[tuple[str, str]]:
    """End the worker's attempts as lost and its life; the (workspace, project) pairs that should be ticked now."""
    touched: list[tuple[str, str]] = []
    for workspace_id in fleet.workspaces_of_worker(tx, worker_id):
        ended = end_attempts_of(tx, workspace_id, worker_id)
        ledger.settle(tx, workspace_id, [], closing={fence for one in ended.values() for fence in one.closing})
        for project_id, one in ended.items():
            close_ended_runs(tx, workspace_id, one)
            touched.append((workspace_id, project_id))
    fleet.stop(tx, worker_id)
    return touched
