"""Does the table of events need partitions on PostgreSQL? Append, tail and delete in a small one and in a huge one.

And what deleting half of it leaves behind: sizes before, after, after a vacuum, and when as much is written again.
"""

from __future__ import annotations

import statistics
import time

from sqlalchemy import Connection, delete, select, text

from benchmarks.bench import Bench, no_op
from benchmarks.measure import series
from benchmarks.report import Line
from coordination import Plan, connect
from coordination.domain.plans.plans import ProjectRef
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.settings import load_settings
from coordination.store.queries.tasks import events
from coordination.store.tables.tasks.events import event_log
from tests.support.piles import pile_up

_FEW, _MANY = 10_000, 3_000_000
_PER_TASK = 3
_RUN = 1_000  # tasks
_TIMES = 100
_BATCH = 500
_EVENTS = frozenset({"events"})


def measure(bench: Bench) -> list[Line]:
    """Milliseconds of a transaction of each kind, and megabytes."""
    many = max(bench.size(_MANY), 2 * _FEW)
    small, large = _Log(bench, _FEW), _Log(bench, many)
    try:
        taken: dict[str, dict[_Log, list[list[float]]]] = {}
        for _ in range(bench.rounds):
            spent: dict[str, dict[_Log, list[float]]] = {}
            for _ in range(_TIMES):
                for log in (small, large):
                    for name, seconds in log.once().items():
                        spent.setdefault(name, {small: [], large: []})[log].append(seconds * 1000)
            for name, by_log in spent.items():
                for log, values in by_log.items():
                    taken.setdefault(name, {small: [], large: []})[log].append(values)
        lines = [_line(name, by_log[small], by_log[large], many) for name, by_log in taken.items()]
        return lines + large.halved()
    finally:
        small.close()
        large.close()


def _line(name: str, small: list[list[float]], large: list[list[float]], many: int) -> Line:
    medians = [statistics.median(values) for values in large]
    ratio = statistics.median(big / statistics.median(values) for big, values in zip(medians, small, strict=True))
    what = f"{name}, {many:,} events beside {_FEW:,}"
    return Line(what, "postgresql", series(medians, "ms"), ratio=ratio, target="<= 1.3x of the small one")


class _Log:
    """A table with so many events of old runs, and one run that goes on."""

    def __init__(self, bench: Bench, count: int) -> None:
        self._co = connect(load_settings(bench.environment("postgresql", database=5)))
        self._store = self._co.runtime.store
        self._workspace = self._co.runtime.workspace_id
        reference = ProjectRef(name="bench", git_remote="https://example.org/bench.git")
        self._run = self._co.submit(Plan([no_op("seed")], project=reference))
        seed = self._run.tasks()[0]
        self._project, self._task = seed.record.project_id, seed.id
        with self._store.write() as tx:
            self._append(tx, _PER_TASK - 1, task_id=self._task)  # and the one that says that it was created
            pile_up(tx, self._run.id, self._task, tasks=count // _PER_TASK, per_run=_RUN, only=_EVENTS)
            self._piles = [
                row.run_id
                for row in tx.execute(select(event_log.c.run_id).distinct().order_by(event_log.c.run_id))
                if row.run_id != self._run.id
            ]
        self._maintain("VACUUM ANALYZE events")

    def once(self) -> dict[str, float]:
        """Seconds of each, commit included; what is deleted is put back by a rollback."""
        began = time.perf_counter()
        with self._store.write() as tx:
            self._append(tx, 100)
        appended = time.perf_counter()
        with self._store.read() as tx:
            events.tail(tx, self._workspace, run_id=self._run.id, limit=100)
        tailed = time.perf_counter()
        with self._store.write() as tx:
            self._delete(tx, self._piles[0])
            tx.rollback()
        return {
            "append 100 events": appended - began,
            "tail 100 events of a run": tailed - appended,
            f"delete {_BATCH} events of an old run": time.perf_counter() - tailed,
        }

    def halved(self) -> list[Line]:
        """Delete the older half of the runs as retention does, and see what that leaves."""
        found = [("full", self._megabytes())]
        began = time.perf_counter()
        gone = 0
        for run_id in self._piles[: len(self._piles) // 2]:
            while True:
                with self._store.write() as tx:
                    number = self._delete(tx, run_id)
                gone += number
                if number < _BATCH:
                    break
        rate = gone / (time.perf_counter() - began)
        found.append(("half of it deleted", self._megabytes()))
        # Index pages that one vacuum empties can be used again after the next, once there was a transaction in between.
        for _ in range(2):
            self._maintain("VACUUM events")
            with self._store.write() as tx:
                self._append(tx, 1)
        found.append(("and vacuumed", self._megabytes()))
        with self._store.write() as tx:
            newer = len(self._piles) * _RUN
            pile_up(tx, self._run.id, self._task, tasks=gone // _PER_TASK, per_run=_RUN, first=newer, only=_EVENTS)
        found.append(("and as many written again", self._megabytes()))
        lines = [
            Line(f"{of} of the table of events, {when}", "postgresql", series([size[of]], "MB"))
            for when, size in found
            for of in ("rows", "indexes")
        ]
        return [Line("events deleted a second, in batches without a pause", "postgresql", series([rate], "/s")), *lines]

    def close(self) -> None:
        self._co.close()

    def _append(self, tx: Connection, count: int, *, task_id: str | None = None) -> None:
        event = NewEvent(EventType.PROGRESS, self._project, self._run.id, task_id)
        events.append(tx, self._workspace, [event] * count)

    def _delete(self, tx: Connection, run_id: str) -> int:
        e = event_log.c
        oldest = select(e.seq).where(e.workspace_id == self._workspace, e.run_id == run_id)
        found = list(tx.execute(oldest.order_by(e.txid, e.seq).limit(_BATCH)).scalars())
        return tx.execute(delete(event_log).where(e.seq.in_(found))).rowcount if found else 0

    def _megabytes(self) -> dict[str, float]:
        with self._store.read() as tx:
            rows, indexes = tx.execute(
                text("SELECT pg_table_size('events') / 1e6, pg_indexes_size('events') / 1e6")
            ).one()
        return {"rows": float(rows), "indexes": float(indexes)}

    def _maintain(self, statement: str) -> None:
        engine = self._store._write_engine.execution_options(isolation_level="AUTOCOMMIT")  # noqa: SLF001
        with engine.connect() as connection:
            connection.execute(text(statement))
