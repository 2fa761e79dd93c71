"""Delete what is older than it is to be kept: small batches, pauses between them, nothing that is still needed.

Work that goes on does not notice: every batch is a short transaction of a bounded number of rows, and after each the
database rests for several times as long as it took. One process at a time does it (a lease, renewed in every batch);
one that dies in the middle leaves a mark, and the next one goes on from there.
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
"""Rows that one transaction deletes at most."""

_LEASE = timedelta(minutes=10)  # longer than any batch, and than the archive of a large run takes
_COSTS_A_FILE = 5_000
_PAGE = 100
_REST = 4.0  # times as long as the batch before took
_SHORTEST_REST = 0.01

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetentionAges:
    """From which age on rows go; zero: they are kept for ever."""

    runs: timedelta
    workers: timedelta
    costs: timedelta


@dataclass(slots=True)
class RetentionResult:
    """What was deleted (or, tried dry, would be): rows by table, the files written, runs kept because of an issue.

    ``complete``: nothing that is old enough was left for another round.
    """

    rows: Counter[str] = field(default_factory=Counter)
    archives: list[Path] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)
    complete: bool = True


class _Interrupted(Exception):
    """The time is up, or the process is to end."""


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
    """Delete one workspace's old rows; None when another process does it now, or did it less than *every* ago.

    *archive*: a folder for a file per run, which is on the disk before the first row goes. *artifacts*: where files are
    kept that tasks made; those of a run go before its rows. *rest* pauses that many
    seconds and answers whether to stop; *budget*: stop after that long. What is left is for the next round. Raises
    Unavailable when an archive cannot be written, or files cannot be deleted.
    """
    holder = new_id()
    begun = store.transact(
        lambda tx: retention.begin(tx, workspace_id, CHORE, holder=holder, lease=_LEASE, every=every)
    )
    if not begun:
        return None
    until = None if budget is None else monotonic() + budget.total_seconds()
    round_ = _Round(store, workspace_id, ages, holder, archive, artifacts, rest, until, batch)
    finished = False
    try:
        round_.work()
        finished = True
    except _Interrupted:
        round_.done.complete = False
    finally:
        store.transact(lambda tx: retention.end(tx, workspace_id, CHORE, holder=holder, done=finished))
    return round_.done


def would_retain(store: Store, workspace_id: str, ages: RetentionAges) -> RetentionResult:
    """What ``retain`` would delete now; changes nothing."""
    done = RetentionResult()
    with store.read() as tx:
        for run_id in retention.marked(tx, workspace_id):
            done.rows.update(retention.counts(tx, workspace_id, run_id))
        for old in _each_old(lambda after: _page(tx, workspace_id, ages, after)) if ages.runs else ():
            if _is_needed(tx, workspace_id, old.id):
                done.needed.append(old.id)
            else:
                done.rows.update(retention.counts(tx, workspace_id, old.id))
        if ages.runs and (unused := job_history.count_unused(tx, workspace_id, age=ages.runs)):
            done.rows["job_history"] = unused
        if ages.runs and (old_stops := stops.count_old(tx, workspace_id, age=ages.runs)):
            done.rows["stops"] = old_stops
        if ages.workers:
            done.rows["workers"] = workers.count_forgettable(tx, after=ages.workers)
        if ages.costs:
            done.rows["costs"] = retention.count_costs(tx, workspace_id, age=ages.costs)
    return done


@dataclass(slots=True)
class _Round:
    store: Store
    workspace_id: str
    ages: RetentionAges
    holder: str
    archive: Path | None
    artifacts: ArtifactStore | None
    rest: Callable[[float], bool]
    until: float | None
    batch: int
    done: RetentionResult = field(default_factory=RetentionResult)
    owed: float = 0.0

    def work(self) -> None:
        with self.store.read() as tx:
            unfinished = retention.marked(tx, self.workspace_id)
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
                "stops", lambda tx: stops.forget(tx, self.workspace_id, age=self.ages.runs, limit=self.batch)
            )
        if self.ages.workers:
            self._until_none(
                "workers", lambda tx: workers.forget_stopped(tx, after=self.ages.workers, limit=self.batch)
            )
        if self.ages.costs:
            self._costs()

    def _page(self, after: OldRun | None) -> list[OldRun]:
        with self.store.read() as tx:
            return _page(tx, self.workspace_id, self.ages, after)

    def _consider(self, old: OldRun) -> None:
        with self.store.read() as tx:
            if _is_needed(tx, self.workspace_id, old.id):
                self.done.needed.append(old.id)
                return
        marked = self._step(lambda tx: retention.mark(tx, self.workspace_id, old.id, age=self.ages.runs))
        if marked:  # else somebody has opened it again
            self._remove(old.id, fresh=True)

    def _remove(self, run_id: str, *, fresh: bool) -> None:
        if self.archive is not None:
            self._archive(run_id, self.archive, fresh=fresh)
        if self.artifacts is not None:
            with self.store.read() as tx:
                has_files = artifacts.of_run(tx, self.workspace_id, run_id)
            if has_files:
                self.artifacts.forget([self.workspace_id, run_id])
        while deleted := self._step(lambda tx: retention.delete_some(tx, self.workspace_id, run_id, limit=self.batch)):
            self.done.rows.update(deleted)

    def _archive(self, run_id: str, folder: Path, *, fresh: bool) -> None:
        try:
            with self.store.read() as tx:
                path = archives.archive_run(tx, self.workspace_id, run_id, folder)
        except CoordinationError:
            if fresh:
                self.store.transact(lambda tx: retention.unmark(tx, self.workspace_id, run_id))
            raise
        self.done.archives.append(path)

    def _costs(self) -> None:
        most = self.batch if self.archive is None else _COSTS_A_FILE
        while True:
            with self.store.read() as tx:
                old = retention.old_costs(tx, self.workspace_id, age=self.ages.costs, limit=most)
            if not old:
                return
            if self.archive is not None:
                name = f"costs-{utc_now():%Y%m%dT%H%M%S}-{new_id()}"
                self.done.archives.append(archives.archive_costs(old, self.archive, name=name))
            ids = [row["id"] for row in old]
            for start in range(0, len(ids), self.batch):
                self.done.rows["costs"] += self._delete_costs(ids[start : start + self.batch])

    def _delete_costs(self, ids: list[str]) -> int:
        return self._step(lambda tx: ledger.forget(tx, self.workspace_id, ids))

    def _until_none(self, name: str, delete: Callable[[Connection], int]) -> None:
        while number := self._step(delete):
            self.done.rows[name] += number

    def _step(self, change: Callable[[Connection], T]) -> T:
        """One short transaction under the renewed lease, after the rest that the one before it owes."""

        def fenced(tx: Connection) -> T:
            if not retention.go_on(tx, self.workspace_id, CHORE, holder=self.holder, lease=_LEASE):
                raise Conflict("Another process has taken over the clearing up")
            return change(tx)

        if (self.owed and self.rest(self.owed)) or (self.until is not None and monotonic() > self.until):
            raise _Interrupted
        began = monotonic()
        found = self.store.transact(fenced)
        self.owed = max(_SHORTEST_REST, (monotonic() - began) * _REST)
        return found


def _each_old(page: Callable[[OldRun | None], list[OldRun]]) -> Iterator[OldRun]:
    """All runs that are old enough, a page at a time, each once: those that must stay are passed by."""
    after: OldRun | None = None
    while found := page(after):
        yield from found
        after = found[-1]


def _page(tx: Connection, workspace_id: str, ages: RetentionAges, after: OldRun | None) -> list[OldRun]:
    return retention.old_runs(tx, workspace_id, age=ages.runs, after=after, limit=_PAGE)


def _is_needed(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Whether open work refers to it, or an issue that is open but for the job that worked it off."""
    if retention.is_needed(tx, workspace_id, run_id):
        return True
    return any(_is_open(raw) for raw in retention.issues_of(tx, workspace_id, run_id))


def _is_open(raw: str) -> bool:
    try:
        found = read_issues(raw.encode())
    except FormatError:
        return True  # what cannot be read is nobody's to delete
    return any(issue.status not in ENDED and issue.status != TOMBSTONE for issue in found)
