"""The transaction that finishes a task and releases ten dependants, beside 1,000 and 1,000,000 finished tasks."""

# ruff: noqa: S608 - the SQL is made of names from the schema

from __future__ import annotations

import statistics
import time
from datetime import timedelta

from sqlalchemy import Connection, text

from benchmarks.bench import STORES, Bench, no_op
from benchmarks.measure import series
from benchmarks.report import Line
from coordination import Plan, connect
from coordination.api.connection import Coordination
from coordination.base.clock import utc_now
from coordination.base.host import boot_id, host
from coordination.base.ids import new_id
from coordination.domain.plans.plans import ProjectRef
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.flows.attempts.finish import DispatchTerms, finish, next_work
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.services.attempts.end import close_ended_runs, decide_end
from coordination.settings import load_settings
from coordination.store.queries.fleet import workers

_FEW, _MANY = 1_000, 1_000_000
_CHILDREN = 10
_PARENTS = 60  # measured in each store, the two stores taking turns

_FILLED = {
    "tasks": {
        "id": "{id}",
        "key": "'old-' || n.i",
        "state": "'completed'",
        "reasons": "0",
        "finished_at": "updated_at",
    },
    "attempts": {"task_id": "{id}"},
    "events": {"seq": "NULL", "task_id": "{id}"},
    "dependencies": {"parent_id": "{id}", "child_id": "{next}", "satisfied_at": "t.satisfied_at"},
}


def measure(bench: Bench) -> list[Line]:
    """Milliseconds of the transaction, and how the large store compares."""
    many = max(bench.size(_MANY), 2 * _FEW)
    lines = []
    for kind in STORES:
        stores = {count: _Store(bench, kind, count) for count in (_FEW, many)}
        ratios, taken = [], {count: [] for count in stores}
        try:
            for _ in range(bench.rounds):
                spent = {count: [] for count in stores}
                claims = {count: store.parents(_PARENTS) for count, store in stores.items()}
                for pair in range(_PARENTS):
                    for count, store in stores.items():
                        spent[count].append(store.finish(claims[count][pair]) * 1000)
                medians = {count: statistics.median(values) for count, values in spent.items()}
                ratios.append(medians[many] / medians[_FEW])
                for count, value in medians.items():
                    taken[count].append(value)
        finally:
            for store in stores.values():
                store.close()
        ratio = statistics.median(ratios)
        what = f"finish a task and release {_CHILDREN}, beside {{:,}} finished tasks"
        lines += [
            Line(what.format(_FEW), kind, series(taken[_FEW], "ms")),
            Line(what.format(many), kind, series(taken[many], "ms"), ratio=ratio, target="<= 1.3x of 1,000"),
        ]
    return lines


class _Store:
    """A store with many finished tasks and a worker of its own that runs nothing."""

    def __init__(self, bench: Bench, kind: str, finished: int) -> None:
        self._kind = kind
        self._co: Coordination = connect(load_settings(bench.environment(kind, database=5)))
        self._workspace = self._co.runtime.workspace_id
        self._worker = new_id()
        self._co.runtime.store.transact(self._register)
        self._plan = 0
        for claim in self.parents(2):  # finished ones to copy
            self.finish(claim)
        self._co.runtime.store.transact(lambda tx: self._fill(tx, finished))
        with self._co.runtime.store.write() as tx:
            tx.execute(text("ANALYZE"))
        # What the filling left to be written is not the measured transaction's to write.
        if kind == "sqlite":
            self._co.runtime.store.close()  # the last connection writes the log back; the next use opens new ones
        else:
            with self._co.runtime.store.write() as tx:
                tx.execute(text("CHECKPOINT"))

    def parents(self, count: int) -> list[Claim]:
        """Claims of new tasks that each hold back ten others."""
        self._plan += 1
        tasks = []
        for number in range(count):
            parent = f"p{number}"
            tasks += [no_op(parent), *(no_op(f"{parent}-{child}", needs=[parent]) for child in range(_CHILDREN))]
        run = self._co.submit(Plan(tasks, project=ProjectRef(name="bench", git_remote="https://example.org/bench.git")))
        ids = [handle.id for handle in run.tasks() if "-" not in handle.key]
        lease = timedelta(hours=1)
        return self._co.runtime.store.transact(
            lambda tx: claim_tasks(tx, self._workspace, ids, worker_id=self._worker, lease=lease)
        )

    def finish(self, claim: Claim) -> float:
        """Seconds of the finishing transaction, commit included."""
        ended = decide_end(claim, AttemptEnd(Outcome.COMPLETED), now=utc_now())
        began = time.perf_counter()
        with self._co.runtime.store.write() as tx:
            scope = self._workspace, claim.project_id
            effects = finish(tx, *scope, [ended], actor=f"worker:{self._worker}")
            work = next_work(tx, *scope, effects, DispatchTerms(16, lambda _kind: 1))
            close_ended_runs(tx, self._workspace, effects, continuing=work.runs)
        return time.perf_counter() - began

    def close(self) -> None:
        self._co.close()

    def _register(self, tx: Connection) -> None:
        row = {"id": self._worker, "name": "bench", "host": host(), "boot_id": boot_id(), "pid": 1, "slots": 1}
        workers.register(tx, row | {"version": "bench"})

    def _fill(self, tx: Connection, count: int) -> None:
        """Copy one finished task with its attempt, its events and an edge, as one statement per table."""
        found = tx.execute(text("SELECT task_id FROM attempts WHERE outcome = 'completed' LIMIT 1")).scalar_one()
        for table, changes in _FILLED.items():
            columns = (
                [row[1] for row in tx.execute(text(f"PRAGMA table_info({table})"))]
                if self._kind == "sqlite"
                else [
                    row[0]
                    for row in tx.execute(
                        text(f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'")
                    )
                ]
            )
            columns = [column for column in columns if changes.get(column) != "NULL"]
            values = [changes.get(column, f"t.{column}").format(id=self._id(0), next=self._id(1)) for column in columns]
            which = {"tasks": "id", "dependencies": "parent_id"}.get(table, "task_id")
            limit = "LIMIT 1" if table in {"dependencies", "events"} else ""
            tx.execute(
                text(
                    f"{self._numbers()} INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "
                    f"FROM (SELECT * FROM {table} WHERE {which} = :one {limit}) t CROSS JOIN n WHERE n.i < :last"
                ),
                {"one": found, "last": count if table != "dependencies" else count - 1, "count": count},
            )

    def _numbers(self) -> str:
        if self._kind == "sqlite":
            return "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)"
        return "WITH n AS (SELECT i FROM generate_series(0, :count - 1) AS i)"

    def _id(self, ahead: int) -> str:
        """An id in the order of time, before all that are made now."""
        if self._kind == "sqlite":
            return f"printf('01000000-%04x-7%03x-8000-000000000000', (n.i + {ahead}) / 4096, (n.i + {ahead}) % 4096)"
        wide = f"lpad(to_hex(n.i + {ahead}), 7, '0')"
        return f"('01000000-' || substr({wide}, 1, 4) || '-7' || substr({wide}, 5, 3) || '-8000-000000000000')::uuid"
