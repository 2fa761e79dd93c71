"""Prove that the sums are those of the ledger's records, mend them, and count them in another time zone.

What is wrong is found on one snapshot of ledger and sums, and added to the sums afterwards, a batch at a time: whoever
writes meanwhile changes both, so that what was wrong stays wrong by the same amount, and nobody is held up. A repair
that dies in the middle has mended a part; the next one finds the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import islice

from sqlalchemy import Connection

from coordination.base.calendars import check_zone
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
_BUSY = Conflict("Another process is counting the sums of this ledger now", hint="Try again when it is done")


@dataclass(slots=True)
class LedgerCheck:
    """How many sums were wrong, some of them with what was missing, and whether they are right now.

    ``complete`` False: the ledger has never been counted before, so all of it was missing.
    """

    zone: str
    complete: bool
    wrong: int = 0
    repaired: bool = False
    examples: list[tuple[TotalKey, CostTotal]] = field(default_factory=list)

    def note(self, found: Iterable[tuple[TotalKey, CostTotal]]) -> Iterator[tuple[TotalKey, CostTotal]]:
        """Count them as they go by."""
        for one in found:
            self.wrong += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(one)
            yield one


def check_costs(store: Store, workspace_id: str, *, repair: bool = False, since: date | None = None) -> LedgerCheck:
    """Compare every sum with the records (*since*: only of these days); with *repair*, make them right.

    Raises Conflict when another process repairs them now.
    """
    if repair:
        with _alone(store, workspace_id) as holder:
            return _counted(store, workspace_id, holder, "")
    with store.read() as tx:
        found = LedgerCheck(rollups.zone(tx, workspace_id), rollups.complete(tx, workspace_id))
        for _ in found.note(rollups.drift(tx, workspace_id, since=since.isoformat() if since else None)):
            pass
    return found


def complete_sums(store: Store) -> None:
    """Count every ledger whose sums are incomplete, after an interrupted change of time zone; skip one that is busy."""
    with store.read() as tx:
        missing = [each for each in projects.workspace_ids(tx) if not rollups.complete(tx, each)]
    for workspace_id in missing:
        try:
            check_costs(store, workspace_id, repair=True)
        except Conflict:
            continue  # until it has done so, the ledger itself is asked


def set_timezone(store: Store, workspace_id: str, zone: str) -> LedgerCheck:
    """Let the workspace's days and months begin in *zone*, and count all sums again.

    Until that is done the ledger itself is asked. Raises Refused for a zone that there is not, with nothing changed.
    """
    name = check_zone(zone)
    with _alone(store, workspace_id) as holder:

        def change(tx: Connection) -> None:
            _fence(tx, workspace_id, holder)
            rollups.set_zone(tx, workspace_id, name)

        store.transact(change)
        return _counted(store, workspace_id, holder, name)


class _alone:  # noqa: N801 - reads as what it says
    """The chore, held by nobody else meanwhile; it counts as done when all went well."""

    def __init__(self, store: Store, workspace_id: str) -> None:
        self._store, self._workspace_id, self._holder = store, workspace_id, new_id()

    def __enter__(self) -> str:
        begun = self._store.transact(
            lambda tx: retention.begin(tx, self._workspace_id, SUMS, owner=self._holder, lease=_LEASE)
        )
        if not begun:
            raise _BUSY
        return self._holder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._store.transact(
            lambda tx: retention.end(tx, self._workspace_id, SUMS, owner=self._holder, done=kind is None)
        )


def _fence(tx: Connection, workspace_id: str, holder: str) -> None:
    if not retention.renew(tx, workspace_id, SUMS, owner=holder, lease=_LEASE):
        raise _BUSY


def _counted(store: Store, workspace_id: str, holder: str, zone: str) -> LedgerCheck:
    """Make all sums right, and leave few rows."""

    def step(change: Callable[[Connection], int]) -> int:
        def fenced(tx: Connection) -> int:
            _fence(tx, workspace_id, holder)
            return change(tx)

        return store.transact(fenced)

    with store.read() as tx:
        found = LedgerCheck(zone or rollups.zone(tx, workspace_id), rollups.complete(tx, workspace_id))
        missing = found.note(rollups.drift(tx, workspace_id))
        while batch := dict(islice(missing, _BATCH)):
            step(lambda tx, batch=batch: _added(tx, workspace_id, batch))  # type: ignore[misc]
        day = rollups.today(tx, workspace_id)
    step(lambda tx: rollups.drop_empty(tx, workspace_id))
    while step(lambda tx: rollups.fold(tx, workspace_id, before=day)):
        pass
    found.repaired = True
    return found


def _added(tx: Connection, workspace_id: str, batch: dict[TotalKey, CostTotal]) -> int:
    rollups.add(tx, workspace_id, batch, shard=rollups.begin(tx, workspace_id))
    return len(batch)
