"""Record the usage of attempts whose worker could not store it. Records nothing twice."""

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
    """The usage that one attempt has reported in total."""

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
    """Record the reported usage that the ledger lacks, and return the number of records.

    It counts in budgets like other costs of attempts. That of ended attempts is marked as stale.
    """
    fences = sorted({(one.by.task_id, one.by.attempt) for one in reported})
    # A commit of a worker that has just died may still be in progress: wait for its row locks.
    attempts.lock(tx, workspace_id, fences)
    live = attempts.unfinished(tx, workspace_id, fences)
    due: list[CostRecord] = []
    for report in reported:
        fence = report.by.task_id, report.by.attempt
        meter = UsageDeltas(partial(price, report.by), partial(record, report.by))
        meter.resume(costs.of_attempt(tx, workspace_id, *fence), is_generated=partial(_is_generated, report.used))
        due += [replace(each, stale=fence not in live) for each in meter.final_records(report.used)]
    ledger.settle(tx, workspace_id, due)
    return len(due)


def _is_generated(used: Sequence[Usage], name: str) -> bool:
    """Return whether the id was generated here, because the usage was not reported by lines with ids."""
    return is_id(name) and all(one.id != name for one in used)
