"""Ticks a project's supervisor as a worker does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.flows.fleet.tick_supervisor import REST, TickResult, run_tick
from coordination.services.forecast.cost_estimates import unpriced_estimator
from coordination.store.engine import Store
from coordination.store.queries.fleet import supervisors


def tick_supervisor(
    store: Store,
    workspace_id: str,
    project_id: str,
    *,
    owner: str,
    lease: timedelta = timedelta(seconds=60),
    every: timedelta | None = None,
    **settings: Any,
) -> TickResult | None:
    """Tick the project once. None: it is ticking already, its supervisor has ended, or it was ticked within *every*."""
    with store.write() as tx:
        start = supervisors.begin_tick(tx, workspace_id, project_id, owner=owner, lease=lease, every=every)
    if start is None:
        return None
    defaults: dict[str, Any] = {
        "bundle": lambda _kind: 1,
        "enqueue_again_after": REST,
        "lifetime": DEFAULT_LIFETIME,
        "rest": timedelta(seconds=5),
        "estimator": unpriced_estimator,
    }
    return run_tick(store, start, **{**defaults, **settings})
