"""Everything that is done all day, beside 1,000,000 finished tasks and their events, and beside almost none.

Twice in the large store: with the statistics of a table that was analysed while it was empty and then filled, as the
database has them until its next ANALYZE, and with fresh ones.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection, text

from benchmarks.bench import STORES, Bench, no_op
from benchmarks.measure import series
from benchmarks.report import Line
from coordination import Plan, Run, connect
from coordination.api.connection import Coordination
from coordination.base.clock import utc_now
from coordination.base.host import boot_id, host
from coordination.base.ids import new_id
from coordination.domain.plans.plans import ProjectRef
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.flows.attempts.finish import DispatchTerms, finish, next_work
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.flows.tasks.explain_task import explain_task
from coordination.services.attempts.end import close_ended_runs, decide_end
from coordination.services.tasks import dispatch_window
from coordination.settings import load_settings
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import retention
from coordination.store.queries.tasks import events, names, tasks
from coordination.store.reports.projects import overview
from tests.support.piles import pile_up
from tests.support.ticks import tick_supervisor

_FEW, _MANY = 1_000, 1_000_000
_TIMES = 20  # in each round, the two stores taking turns
_READY = 200
_LEASE = timedelta(hours=1)
_WINDOW = 16
_PROJECT = ProjectRef(name="bench", git_remote="https://example.org/bench.git")
_TABLES = ("runs", "tasks", "attempts", "events", "dependencies")


def measure(bench: Bench) -> list[Line]:
    """Milliseconds of each, in the large store, and how they compare with the small one."""
    many = max(bench.size(_MANY), 2 * _FEW)
    lines = []
    for kind in STORES:
        small, large = _Store(bench, kind), _Store(bench, kind)
        try:
            small.fill(_FEW)
            small.analyse()
            large.analyse()
            began = time.perf_counter()
            large.fill(many)
            print(f"   {kind}: {many:,} finished tasks made in {time.perf_counter() - began:.0f} s", flush=True)
            lines += _compared(bench, kind, small, large, f"{many:,} finished, analysed when empty")
            large.analyse()
            lines += _compared(bench, kind, small, large, f"{many:,} finished")
        finally:
            small.close()
            large.close()
    return lines


def _compared(bench: Bench, kind: str, small: _Store, large: _Store, beside: str) -> list[Line]:
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(bench.rounds):
        spent: dict[str, dict[_Store, list[float]]] = {}
        for store in (small, large):
            store.begin_round()
        for _ in range(_TIMES):
            for store in (small, large):
                for name, seconds in store.once().items():
                    spent.setdefault(name, {small: [], large: []})[store].append(seconds * 1000)
        for name, by_store in spent.items():
            found.setdefault(name, []).append((statistics.median(by_store[small]), statistics.median(by_store[large])))
    return [
        Line(
            f"{name}, {beside}",
            kind,
            series([big for _, big in pairs], "ms"),
            ratio=statistics.median(big / little for little, big in pairs),
            target="<= 1.3x of an empty one",
        )
        for name, pairs in found.items()
    ]


class _Store:
    """A store with a worker that runs nothing, open work, and as much finished work as it is filled with."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self._kind = kind
        self._co: Coordination = connect(load_settings(bench.environment(kind, database=5)))
        self._store = self._co.runtime.store
        self._workspace = self._co.runtime.workspace_id
        self._worker = new_id()
        row = {"id": self._worker, "name": "bench", "host": host(), "boot_id": boot_id(), "pid": 1, "slots": 8}
        self._store.transact(lambda tx: workers.register(tx, row | {"version": "bench"}))
        self._claims: list[Claim] = []
        self._run: Run | None = None
        self._next: list[str] = []
        self._project = ""

    def fill(self, count: int) -> None:
        """So many finished tasks."""
        seed = self._submit(Plan([no_op("seed")], project=_PROJECT))
        task_id = seed.task("seed").id
        (claim,) = self._store.transact(lambda tx: self._claimed(tx, task_id))
        self._store.transact(lambda tx: self._finished(tx, claim))
        self._store.transact(lambda tx: pile_up(tx, seed.id, task_id, tasks=count), patience=timedelta(hours=1))
        if self._kind == "sqlite":
            self._store.close()  # the last connection writes the log back; the next use opens new ones
        else:
            with self._store.write() as tx:
                tx.execute(text("CHECKPOINT"))

    def analyse(self) -> None:
        """Fresh statistics; from now on the database makes none by itself."""
        with self._store.write() as tx:
            tx.execute(text("ANALYZE"))
            if self._kind != "sqlite":
                for table in _TABLES:
                    tx.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))

    def begin_round(self) -> None:
        """New open work."""
        if self._run is not None:
            self._run.cancel()
        parents = [no_op(f"p{number}") for number in range(_TIMES)]
        children = [no_op(f"c{number}", needs=[f"p{number}"]) for number in range(_TIMES)]
        ready = [no_op(f"r{number}") for number in range(_READY)]
        self._run = self._submit(Plan([*parents, *children, *ready], project=_PROJECT))
        found = self._run.tasks()
        self._next = [task.id for task in found if task.key.startswith("p")]
        self._project = found[0].record.project_id

    def once(self) -> dict[str, float]:
        """Seconds of each thing, done once; what is to change nothing is rolled back."""
        assert self._run is not None
        run_id, task_id = self._run.id, self._next.pop()
        window = self._timed_change(
            lambda tx: dispatch_window.fill_window(
                tx, self._workspace, self._project, window=_READY, bundle=lambda _kind: 1
            )
        )
        began = time.perf_counter()
        (claim,) = self._store.transact(lambda tx: self._claimed(tx, task_id))
        claimed = time.perf_counter()
        self._store.transact(lambda tx: self._finished(tx, claim))
        finished = time.perf_counter()
        tick_supervisor(self._store, self._workspace, self._project, owner=new_id(), window=_WINDOW)
        ticked = time.perf_counter()
        thresholds = self._co.runtime.settings.supervision()
        reads: dict[str, Callable[[Connection], object]] = {
            "coord status": lambda tx: overview.overview(
                tx, self._workspace, thresholds=thresholds, live_within=_LEASE
            ),
            "coord ready": lambda tx: tasks.ready_of_project(tx, self._workspace, self._project, limit=50),
            "coord explain (by id)": lambda tx: self._explained(tx, task_id),
            "a task by its key": lambda tx: names.find_tasks(tx, self._workspace, f"r{_READY - 1}", run_id=run_id),
            "read a run's events": lambda tx: events.tail(tx, self._workspace, run_id=run_id, limit=100),
            "heartbeat of a worker": lambda tx: workers.count_live_slots(tx, within=_LEASE),
            "look for old runs": lambda tx: retention.old_runs(tx, self._workspace, age=timedelta(days=90)),
        }
        return {
            "claim": claimed - began,
            "finish and release": finished - claimed,
            "tick": ticked - finished,
            "fill the window": window,
        } | {name: self._timed(read) for name, read in reads.items()}

    def close(self) -> None:
        self._co.close()

    def _submit(self, plan: Plan) -> Run:
        return self._co.submit(plan)

    def _claimed(self, tx: Connection, task_id: str) -> list[Claim]:
        return claim_tasks(tx, self._workspace, [task_id], worker_id=self._worker, lease=_LEASE)

    def _finished(self, tx: Connection, claim: Claim) -> None:
        ended = decide_end(claim, AttemptEnd(Outcome.COMPLETED), now=utc_now())
        scope = self._workspace, claim.project_id
        effects = finish(tx, *scope, [ended], actor=f"worker:{self._worker}")
        work = next_work(tx, *scope, effects, DispatchTerms(_WINDOW, lambda _kind: 1))
        close_ended_runs(tx, self._workspace, effects, continuing=work.runs)

    def _explained(self, tx: Connection, task_id: str) -> object:
        task = tasks.get(tx, self._workspace, task_id)
        assert task is not None
        return explain_task(tx, self._workspace, task, live_within=_LEASE)

    def _timed(self, read: Callable[[Connection], object]) -> float:
        began = time.perf_counter()
        with self._store.read() as tx:
            read(tx)
        return time.perf_counter() - began

    def _timed_change(self, change: Callable[[Connection], object]) -> float:
        with self._store.write() as tx:
            began = time.perf_counter()
            change(tx)
            took = time.perf_counter() - began
            tx.rollback()
        return took
