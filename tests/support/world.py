"""A workspace with a worker in an open store: graphs in one line, claims and ends by key, states to compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, select, text, update

from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.plans.plans import Plan, Task
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.tasks import TaskRecord as StoredTask
from coordination.flows.attempts.finish import DispatchTerms
from coordination.flows.fleet.tick_supervisor import TickResult
from coordination.flows.plans.submit_plan import PlanOrigin, SubmittedRun, submit_plan
from coordination.flows.tasks.cancel_work import cancel_run, cancel_task
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.flows.tasks.retry_tasks import retry_task
from coordination.services.attempts.end import decide_end
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import attempts, events, slots, tasks
from coordination.store.tables.tasks.attempts import attempts as attempt_table
from coordination.store.tables.tasks.tasks import dependencies as edge_table
from coordination.store.tables.tasks.tasks import tasks as task_table
from coordination.store.types import db_after
from tests.support.finishing import Finished, finish_all
from tests.support.ticks import tick_supervisor

LEASE = timedelta(seconds=30)
WINDOW = 64


def plan_of(*lines: str, **settings: Any) -> Plan:
    """Return a plan from lines like ``"c < a b"``: c needs a and b. ``tasks``: key -> further fields of that task."""
    more: Mapping[str, Mapping[str, Any]] = settings.pop("tasks", {})
    created = []
    for line in lines:
        key, _, needs = line.partition("<")
        fields = {"run": {"shell": "true"}, "needs": needs.split(), **more.get(key.strip(), {})}
        created.append(Task(key.strip(), **fields))
    return Plan(created, **settings)


class World:
    """One workspace of an open store, and a worker registered in it."""

    def __init__(self, store: Store, name: str = "default", project: str = "example.org/acme/shop") -> None:
        self.store = store
        self.project = project
        self.worker = new_id()
        self.ids: dict[str, str] = {}
        self.claims: dict[str, Claim] = {}
        self.last: SubmittedRun | None = None
        with store.write() as tx:
            self.workspace = projects.get_or_create_workspace(tx, name)
        self.register(self.worker)

    def register(self, worker_id: str) -> str:
        """Register another worker process."""
        row = {
            "id": worker_id,
            "name": f"w-{worker_id[-4:]}",
            "host": "here",
            "boot_id": "boot",
            "pid": 1,
            "slots": 8,
            "version": "0",
        }
        with self.store.write() as tx:
            workers.register(tx, row)
        return worker_id

    def origin(self, **fields: Any) -> PlanOrigin:
        """Return the origin of this world's plans."""
        return PlanOrigin(**{"identity": self.project, "name": "shop", "creator": "ann", "path": "/srv/shop", **fields})

    def submit(self, *lines: str, origin: PlanOrigin | None = None, **settings: Any) -> SubmittedRun:
        """Store a graph as a run."""
        return self.submit_plan(plan_of(*lines, **settings), origin=origin)

    def submit_plan(self, plan: Plan, *, origin: PlanOrigin | None = None) -> SubmittedRun:
        """Store a plan as a run."""
        self.last = self.store.transact(lambda tx: submit_plan(tx, self.workspace, plan, origin or self.origin()))
        self.ids |= self.last.task_ids
        return self.last

    @property
    def project_id(self) -> str:
        """Return the id of the project last submitted to."""
        assert self.last is not None
        return self.last.project_id

    @property
    def run_id(self) -> str:
        """Return the id of the run last submitted."""
        assert self.last is not None
        return self.last.run_id

    def claim(self, *keys: str, worker: str | None = None, lease: timedelta = LEASE, **more: Any) -> list[str]:
        """Claim these tasks in one transaction, and return the keys of the claimed ones."""
        ids = [self.ids[key] for key in keys]
        got = self.store.transact(
            lambda tx: claim_tasks(tx, self.workspace, ids, worker_id=worker or self.worker, lease=lease, **more)
        )
        self.claims |= {claim.key: claim for claim in got}
        return [claim.key for claim in got]

    def decide(
        self, key: str | Claim, outcome: Outcome | None = None, *, took: timedelta = timedelta(0), **fields: Any
    ) -> EndedAttempt:
        """Return how an attempt ended, ready to be written; by default it completed, or is deferred if it waits."""
        claim = self.claims[key] if isinstance(key, str) else key
        if outcome is None:
            waits = "question" in fields or any(task.blocks_finder for task in fields.get("discovered", ()))
            outcome = Outcome.DEFERRED if waits else Outcome.COMPLETED
        return decide_end(claim, AttemptEnd(outcome, **fields), now=datetime.now(UTC), took=took)

    def write(self, *ends: EndedAttempt, hungry: bool = False) -> Finished:
        """Write ends in one transaction; *hungry*: and claim the tasks with which the worker continues."""

        def work(tx: Connection) -> Finished:
            claim = partial(claim_tasks, tx, self.workspace, worker_id=self.worker, lease=LEASE, wait=False)
            terms = DispatchTerms(WINDOW, lambda _kind: 1, claim=claim, idle_threads=int(hungry))
            return finish_all(tx, self.workspace, ends, worker_id=self.worker, terms=terms)

        return self.store.transact(work)

    def finish(self, key: str | Claim, outcome: Outcome | None = None, **fields: Any) -> Finished:
        """End one attempt."""
        return self.write(self.decide(key, outcome, **fields))

    def do(self, *keys: str, outcome: Outcome = Outcome.COMPLETED, **fields: Any) -> None:
        """Claim and end these, one after the other."""
        for key in keys:
            assert self.claim(key) == [key], f"{key} could not be claimed: {self.task(key).state}"
            self.finish(key, outcome, **fields)

    def fail(self, *keys: str) -> None:
        """Claim these and let them fail for good."""
        self.do(*keys, outcome=Outcome.FAILED, error="no", retryable=False)

    def cancel(self, key: str) -> list[str]:
        """Cancel a task as a person, and return the ids of released tasks."""
        return self.store.transact(
            lambda tx: cancel_task(tx, self.workspace, self.ids[key], actor="ann", why="changed my mind")
        ).freed

    def cancel_run(self, run_id: str) -> None:
        """Cancel a run as a person."""
        self.store.transact(lambda tx: cancel_run(tx, self.workspace, run_id, actor="ann", why="all of it"))

    def retry(self, key: str) -> set[str]:
        """Retry a task as a person, and return the keys of the reopened tasks."""
        keys = {task_id: key for key, task_id in self.ids.items()}
        return {
            keys[task_id]
            for task_id in self.store.transact(lambda tx: retry_task(tx, self.workspace, self.ids[key], actor="ann"))
        }

    def tick(self, owner: str = "me", **settings: Any) -> TickResult | None:
        """Tick the project last submitted to."""
        return tick_supervisor(
            self.store, self.workspace, self.project_id, owner=owner, **{"window": WINDOW, **settings}
        )

    def expire(self, *keys: str) -> None:
        """Let the leases of these expire now."""
        with self.store.write() as tx:
            tx.execute(
                update(attempt_table)
                .where(attempt_table.c.task_id.in_([self.ids[key] for key in keys]))
                .where(attempt_table.c.finished_at.is_(None))
                .values(lease_until=db_after(-1.0))
            )

    def make_due(self, *keys: str) -> None:
        """Let the waits of these end now."""
        with self.store.write() as tx:
            tx.execute(
                update(task_table)
                .where(task_table.c.id.in_([self.ids[key] for key in keys]))
                .values(not_before=db_after(-1.0))
            )

    def task(self, key: str) -> StoredTask:
        """Return a task as stored."""
        with self.store.read() as tx:
            task_row = tasks.get(tx, self.workspace, self.ids[key])
        assert task_row is not None
        return task_row

    def states(self, keys: Iterable[str] | None = None) -> dict[str, str]:
        """Return key -> state."""
        wanted = {key: self.ids[key] for key in (self.ids if keys is None else keys)}
        with self.store.read() as tx:
            rows = {row.id: row.state for row in tx.execute(select(task_table.c.id, task_table.c.state))}
        return {key: rows[task_id] for key, task_id in wanted.items()}

    def attempts(self, key: str) -> list[Any]:
        """Return the attempts of a task, oldest first."""
        with self.store.read() as tx:
            return attempts.of_task(tx, self.workspace, self.ids[key])

    def outcomes(self, key: str) -> list[str | None]:
        """Return how each attempt of a task ended."""
        return [attempt.outcome for attempt in self.attempts(key)]

    def story(self, key: str) -> list[str]:
        """Return the types of a task's events."""
        with self.store.read() as tx:
            return [event.type.value for event in events.tail(tx, self.workspace, task_id=self.ids[key])]

    def used(self) -> dict[str, int]:
        """Return slot name -> places in use."""
        with self.store.read() as tx:
            return {row["name"]: row["used"] for row in slots.list_slots(tx, self.workspace, self.project_id)}

    def open_edges(self) -> int:
        """Return how many edges have not been satisfied."""
        with self.store.read() as tx:
            return len(tx.execute(select(edge_table.c.child_id).where(edge_table.c.satisfied_at.is_(None))).all())

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Return the rows of a handwritten statement, committed."""
        with self.store.write() as tx:
            result = tx.execute(text(statement), values)
            return list(result) if result.returns_rows else []


@contextmanager
def watched(store: Store) -> Any:
    """Collect every statement that is sent to the store meanwhile, with its parameters."""
    from sqlalchemy import event

    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:  # noqa: FBT001
        seen.append((statement, parameters))

    engines = {id(engine): engine for engine in (store._write_engine, store._read_engine)}
    for engine in engines.values():
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for engine in engines.values():
            event.remove(engine, "before_cursor_execute", note)
