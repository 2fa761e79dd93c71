"""Claimers that race for the same tasks, in threads or in processes."""

from __future__ import annotations

import random
from datetime import timedelta

from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.store.engine import Store


def claimed_in_batches(store: Store, workspace: str, worker: str, ids: list[str]) -> list[tuple[str, int]]:
    """Try every id, some alone and some in batches, in a random order; return (task, attempt) of each claim."""
    order = random.Random(worker)  # noqa: S311 - an order, no secret
    left = order.sample(ids, len(ids))
    got: list[tuple[str, int]] = []
    while left:
        size = order.choice((1, 3, 10))
        batch, left = left[:size], left[size:]
        claims = store.transact(
            lambda tx, batch=batch: claim_tasks(tx, workspace, batch, worker_id=worker, lease=timedelta(seconds=30))
        )
        got += [(claim.task_id, claim.attempt) for claim in claims]
    return got
