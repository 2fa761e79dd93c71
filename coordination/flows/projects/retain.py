"""Delete expired rows in small batches with pauses between them, except rows that are still needed.

Running work is not disturbed: every batch is a short transaction with a bounded number of rows, and is followed by a
pause of several times its duration. One process at a time does it (under a lease that every batch renews); if it dies,
its marks let the next one continue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from coordination.adapters.artifact_store import ArtifactStore
from coordination.base.clock import monotonic, utc_now
from coordination.base.errors import Conflict, CoordinationError, FormatError
from coordination.base.ids import new_id
from coordination.domain.issues.rules import ENDED, TOMBSTONE
from coordination.formats.beads import read_issues
from coordination.services.money import ledger
from coordination.services.projects import archives
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers
from coordination.store.queries.forecast import job_history
from coordination.store.queries.jobs import artifacts
from coordination.store.queries.projects import retention, stops
from coordination.store.queries.projects.retention import OldRun

CHORE = "retention"
BATCH = 500
"""The most rows that one transaction deletes."""

_LEASE = timedelta(minutes=10)  # longer than any batch, and than archiving a large run
_COSTS_A_FILE = 5_000
_PAGE = 100
_REST = 4.0  # times the duration of the previous batch
_SHORTEST_REST = 0.01

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetentionAges:
    """The ages at which rows expire; zero: never."""

    runs: timedelta
    workers: timedelta
    costs: timedelta


@dataclass(slots=True)
class RetentionResult:
    """What was deleted, or would be: rows by table, the archives, and the runs that are still needed.

    ``complete``: nothing expired is left.
    """

    rows: Counter[str] = field(default_factory=Counter)
    archives: list[Path] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)
    complete: bool = True


class _Interrupted(Exception):
    """The time is up, or the process ends."""


def retain(
    store: Store,
    workspace_id: str,
    ages: RetentionAges,
    *,
    archive: Path | None = None,
    artifacts: ArtifactStore | None = None,
    every: timedelta = timedelta(0),
    rest: Callable[[float], bool],
    budget: timedelta | None = None,
    batch: int = BATCH,
) -> RetentionResult | None:
    """Delete one workspace's expired rows. Return None when another process does, or did less than *every* ago.

    *archive*: a folder for one file per run, which is on the disk before the run's rows are deleted. *artifacts*: the
    store of tasks' files; those of a run are deleted before its rows. *rest* pauses for that many seconds and returns
    whether to stop; *budget*: stop after that long. The rest is left for the next round. Raises Unavailable when an
    archive cannot be written, or files cannot be deleted.
    """
    owner = new_id()
    has_lease = store.transact(
        lambda tx: retention.begin(tx, workspace_id, CHORE, owner=owner, lease=_LEASE, every=every)
    )
    if not has_lease:
        return None
    until = None if budget is None else monotonic() + budget.total_seconds()
    round_ = _RetentionRound(store, workspace_id, ages, owner, archive, artifacts, rest, until, batch)
    finished = False
    try:
        round_.work()
        finished = True
    except _Interrupted:
        round_.result.complete = False
    finally:
        store.transact(lambda tx: retention.end(tx, workspace_id, CHORE, owner=owner, done=finished))
    return round_.result


def preview_retention(store: Store, workspace_id: str, ages: RetentionAges) -> RetentionResult:
    """Return what ``retain`` would delete now, without changing anything."""
    result = RetentionResult()
    with store.read() as tx:
        for run_id in retention.list_marked(tx, workspace_id):
            result.rows.update(retention.count_rows(tx, workspace_id, run_id))
        for old in _each_old(lambda after: _page(tx, workspace_id, ages, after)) if ages.runs else ():
            if _is_needed(tx, workspace_id, old.id):
                result.needed.append(old.id)
            else:
                result.rows.update(retention.count_rows(tx, workspace_id, old.id))
        if ages.runs and (unused := job_history.count_unused(tx, workspace_id, age=ages.runs)):
            result.rows["job_history"] = unused
        if ages.runs and (old_stops := stops.count_old(tx, workspace_id, age=ages.runs)):
            result.rows["stops"] = old_stops
        if ages.workers:
            result.rows["workers"] = workers.count_deletable(tx, after=ages.workers)
        if ages.costs:
            result.rows["costs"] = retention.count_costs(tx, workspace_id, age=ages.costs)
    return result


@dataclass(slots=True)
class _RetentionRound:
    store: Store
    workspace_id: str
    ages: RetentionAges
    owner: str
    archive: Path | None
    artifacts: ArtifactStore | None
    rest: Callable[[float], bool]
    until: float | None
    batch: int
    result: RetentionResult = field(default_factory=RetentionResult)
    pause_due: float = 0.0

    def work(self) -> None:
        with self.store.read() as tx:
            unfinished = retention.list_marked(tx, self.workspace_id)
        for run_id in unfinished:
            self._remove(run_id, fresh=False)
        if self.ages.runs:
            for old in _each_old(self._page):
                self._consider(old)
            self._until_none(
                "job_history",
                lambda tx: job_history.forget(tx, self.workspace_id, age=self.ages.runs, limit=self.batch),
            )
            self._until_none(
                "stops", lambda tx: stops.delete_old(tx, self.workspace_id, age=self.ages.runs, limit=self.batch)
            )
        if self.ages.workers:
            self._until_none(
                "workers", lambda tx: workers.delete_stopped(tx, after=self.ages.workers, limit=self.batch)
            )
        if self.ages.costs:
            self._costs()

    def _page(self, after: OldRun | None) -> list[OldRun]:
        with self.store.read() as tx:
            return _page(tx, self.workspace_id, self.ages, after)

    def _consider(self, old: OldRun) -> None:
        with self.store.read() as tx:
            if _is_needed(tx, self.workspace_id, old.id):
                self.result.needed.append(old.id)
                return
        is_marked = self._step(lambda tx: retention.mark(tx, self.workspace_id, old.id, age=self.ages.runs))
        if is_marked:  # otherwise it was reopened
            self._remove(old.id, fresh=True)

    def _remove(self, run_id: str, *, fresh: bool) -> None:
        if self.archive is not None:
            self._archive(run_id, self.archive, fresh=fresh)
        if self.artifacts is not None:
            with self.store.read() as tx:
                has_files = artifacts.run_has_outputs(tx, self.workspace_id, run_id)
            if has_files:
                self.artifacts.forget([self.workspace_id, run_id])
        while deleted := self._step(lambda tx: retention.delete_batch(tx, self.workspace_id, run_id, limit=self.batch)):
            self.result.rows.update(deleted)

    def _archive(self, run_id: str, folder: Path, *, fresh: bool) -> None:
        try:
            with self.store.read() as tx:
                path = archives.archive_run(tx, self.workspace_id, run_id, folder)
        except CoordinationError:
            if fresh:
                self.store.transact(lambda tx: retention.unmark(tx, self.workspace_id, run_id))
            raise
        self.result.archives.append(path)

    def _costs(self) -> None:
        most = self.batch if self.archive is None else _COSTS_A_FILE
        while True:
            with self.store.read() as tx:
                old = retention.old_costs(tx, self.workspace_id, age=self.ages.costs, limit=most)
            if not old:
                return
            if self.archive is not None:
                name = f"costs-{utc_now():%Y%m%dT%H%M%S}-{new_id()}"
                self.result.archives.append(archives.archive_costs(old, self.archive, name=name))
            ids = [row["id"] for row in old]
            for start in range(0, len(ids), self.batch):
                self.result.rows["costs"] += self._delete_costs(ids[start : start + self.batch])

    def _delete_costs(self, ids: list[str]) -> int:
        return self._step(lambda tx: ledger.delete_records(tx, self.workspace_id, ids))

    def _until_none(self, name: str, delete: Callable[[Connection], int]) -> None:
        while number := self._step(delete):
            self.result.rows[name] += number

    def _step(self, change: Callable[[Connection], T]) -> T:
        """Run one short transaction under the renewed lease, after the pause that the previous one requires."""

        def fenced(tx: Connection) -> T:
            if not retention.renew(tx, self.workspace_id, CHORE, owner=self.owner, lease=_LEASE):
                raise Conflict("Another process has taken over the retention")
            return change(tx)

        if (self.pause_due and self.rest(self.pause_due)) or (self.until is not None and monotonic() > self.until):
            raise _Interrupted
        started = monotonic()
        value = self.store.transact(fenced)
        self.pause_due = max(_SHORTEST_REST, (monotonic() - started) * _REST)
        return value


def _each_old(page: Callable[[OldRun | None], list[OldRun]]) -> Iterator[OldRun]:
    """Yield all expired runs, a page at a time."""
    after: OldRun | None = None
    while runs := page(after):
        yield from runs
        after = runs[-1]


def _page(tx: Connection, workspace_id: str, ages: RetentionAges, after: OldRun | None) -> list[OldRun]:
    return retention.old_runs(tx, workspace_id, age=ages.runs, after=after, limit=_PAGE)


def _is_needed(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Return whether open work refers to the run, or an issue that is open in its tracker."""
    if retention.is_needed(tx, workspace_id, run_id):
        return True
    return any(_is_open(raw) for raw in retention.issues_of(tx, workspace_id, run_id))


def _is_open(raw: str) -> bool:
    try:
        issues = read_issues(raw.encode())
    except FormatError:
        return True  # keep what cannot be read
    return any(issue.status not in ENDED and issue.status != TOMBSTONE for issue in issues)
