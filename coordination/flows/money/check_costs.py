"""Checks and repairs the ledger's totals, and recomputes them in another time zone.

Differences are computed on one snapshot and added to the totals afterwards, in batches: concurrent writers change both
the ledger and the totals, so that the differences stay the same and nobody waits. After an interrupted repair, the next
one finds the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import islice

from sqlalchemy import Connection

from coordination.base.clock import check_zone
from coordination.base.errors import Conflict
from coordination.base.ids import new_id
from coordination.domain.money.cost_totals import CostTotal, TotalKey
from coordination.store.engine import Store
from coordination.store.queries.money import rollups
from coordination.store.queries.projects import projects, retention
from coordination.store.tables.projects.retention import SUMS

_BATCH = 1000
_LEASE = timedelta(minutes=10)
_EXAMPLES = 10
_BUSY = Conflict("Another process is recomputing the totals of this ledger", hint="Try again when it is done")


@dataclass(slots=True)
class LedgerCheck:
    """The number of wrong totals, some examples with their differences, and whether they were repaired.

    ``complete`` False: the totals were incomplete before, so differences are expected.
    """

    zone: str
    complete: bool
    wrong: int = 0
    repaired: bool = False
    examples: list[tuple[TotalKey, CostTotal]] = field(default_factory=list)

    def count(self, drift: Iterable[tuple[TotalKey, CostTotal]]) -> Iterator[tuple[TotalKey, CostTotal]]:
        """Count differences, and yield them again."""
        for difference in drift:
            self.wrong += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(difference)
            yield difference


def check_costs(store: Store, workspace_id: str, *, repair: bool = False, since: date | None = None) -> LedgerCheck:
    """Compare every total with the records (*since*: only of these days); *repair*: correct them.

    Raises Conflict when another process repairs them now.
    """
    if repair:
        with _sums_lease(store, workspace_id) as owner:
            return _repair(store, workspace_id, owner, "")
    with store.read() as tx:
        check = LedgerCheck(rollups.read_zone(tx, workspace_id), rollups.is_complete(tx, workspace_id))
        for _ in check.count(rollups.find_drift(tx, workspace_id, since=since.isoformat() if since else None)):
            pass
    return check


def complete_sums(store: Store) -> None:
    """Complete the totals of every ledger, for example after an interrupted change of time zone. Skips busy ones."""
    with store.read() as tx:
        missing = [each for each in projects.workspace_ids(tx) if not rollups.is_complete(tx, each)]
    for workspace_id in missing:
        try:
            check_costs(store, workspace_id, repair=True)
        except Conflict:
            continue  # until it is done, reports read the ledger itself


def set_timezone(store: Store, workspace_id: str, zone: str) -> LedgerCheck:
    """Set the time zone of the workspace's days and months, and recompute all totals.

    Until that is done, reports read the ledger itself. Raises Refused for an unknown zone, with nothing changed.
    """
    name = check_zone(zone)
    with _sums_lease(store, workspace_id) as owner:

        def change(tx: Connection) -> None:
            _fence(tx, workspace_id, owner)
            rollups.set_zone(tx, workspace_id, name)

        store.transact(change)
        return _repair(store, workspace_id, owner, name)


@contextmanager
def _sums_lease(store: Store, workspace_id: str) -> Iterator[str]:
    """Lease the chore of totals, and yield the owner of the lease. The chore is done if the block raises no error."""
    owner, done = new_id(), False
    if not store.transact(lambda tx: retention.begin(tx, workspace_id, SUMS, owner=owner, lease=_LEASE)):
        raise _BUSY
    try:
        yield owner
        done = True
    finally:
        store.transact(lambda tx: retention.end(tx, workspace_id, SUMS, owner=owner, done=done))


def _fence(tx: Connection, workspace_id: str, owner: str) -> None:
    if not retention.renew(tx, workspace_id, SUMS, owner=owner, lease=_LEASE):
        raise _BUSY


def _repair(store: Store, workspace_id: str, owner: str, zone: str) -> LedgerCheck:
    """Correct all totals, delete empty ones and merge shards."""

    def step(change: Callable[[Connection], int]) -> int:
        def fenced(tx: Connection) -> int:
            _fence(tx, workspace_id, owner)
            return change(tx)

        return store.transact(fenced)

    with store.read() as tx:
        check = LedgerCheck(zone or rollups.read_zone(tx, workspace_id), rollups.is_complete(tx, workspace_id))
        missing = check.count(rollups.find_drift(tx, workspace_id))
        while batch := dict(islice(missing, _BATCH)):
            step(lambda tx, batch=batch: _add(tx, workspace_id, batch))  # type: ignore[misc]
        day = rollups.today(tx, workspace_id)
    step(lambda tx: rollups.drop_empty(tx, workspace_id))
    while step(lambda tx: rollups.merge_shards(tx, workspace_id, before=day)):
        pass
    check.repaired = True
    return check


def _add(tx: Connection, workspace_id: str, batch: dict[TotalKey, CostTotal]) -> int:
    rollups.add(tx, workspace_id, batch, shard=rollups.lock_shard(tx, workspace_id))
    return len(batch)
