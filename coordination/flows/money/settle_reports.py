"""Record what attempts have reported to a worker that could not write it down: once, what the ledger has left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import Connection

from coordination.base.ids import is_id
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.usage_deltas import UsageDeltas
from coordination.domain.tasks.attempts import AttemptIdentity, Usage
from coordination.services.money import ledger
from coordination.store.queries.money import costs
from coordination.store.queries.tasks import attempts


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """All that was found of what one attempt has used."""

    by: AttemptIdentity
    used: Sequence[Usage]


def settle_reports(
    tx: Connection,
    workspace_id: str,
    reported: Sequence[AttemptReport],
    *,
    price: Callable[[AttemptIdentity, Usage], Usage],
    record: Callable[[AttemptIdentity, Usage], CostRecord],
) -> int:
    """Record what is missing in the ledger of what these attempts have used; how many records that are.

    It counts in budgets as anything that an attempt spends. What an attempt has used that has ended is marked as stale.
    """
    fences = sorted({(one.by.task_id, one.by.attempt) for one in reported})
    # A commit of a worker that has just died may still be on its way: it holds these rows until it is there.
    attempts.lock(tx, workspace_id, fences)
    live = attempts.unfinished(tx, workspace_id, fences)
    due: list[CostRecord] = []
    for one in reported:
        fence = one.by.task_id, one.by.attempt
        meter = UsageDeltas(partial(price, one.by), partial(record, one.by))
        meter.resume(costs.of_attempt(tx, workspace_id, *fence), ours=partial(_is_ours, one.used))
        due += [replace(made, stale=fence not in live) for made in meter.rest(one.used)]
    ledger.settle(tx, workspace_id, due)
    return len(due)


def _is_ours(used: Sequence[Usage], name: str) -> bool:
    """Whether the ledger has made that id, because no line was reported."""
    return is_id(name) and all(one.id != name for one in used)
