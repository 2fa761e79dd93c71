"""All operations that change a store, concurrent and random, on a few small graphs whose rows all of them lock.

Workers (threads of this process) claim, end, fail, discover and lose tasks, and send heartbeats; people submit, cancel,
retry, force, reprioritize, pause, resume and set budgets; supervisors tick; retention deletes what has ended.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError

from coordination.base.errors import CoordinationError, DatabaseUnavailable
from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.fleet.leases import LeaseTerms
from coordination.domain.money.budgets import BudgetScope
from coordination.domain.money.caps import parse_caps
from coordination.domain.plans.plans import BudgetCap, Concurrency
from coordination.domain.tasks.attempts import AttemptEnd, Claim, DiscoveredTask, Outcome, Usage
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import OnDependencyFailure, TaskState
from coordination.flows.attempts.finish import DispatchTerms
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.flows.money.set_budget import set_budget
from coordination.flows.plans.submit_plan import submit_plan
from coordination.flows.projects.change_project import pause_project, resume_project
from coordination.flows.projects.retain import RetentionAges, retain
from coordination.flows.tasks.add_discovered_tasks import add_tasks_of_attempt
from coordination.flows.tasks.cancel_work import cancel_run, cancel_task
from coordination.flows.tasks.change_priority import change_priority
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.flows.tasks.force_tasks import force_task
from coordination.flows.tasks.retry_tasks import retry_run, retry_task
from coordination.services.attempts.end import build_cost_record, decide_end
from coordination.services.tasks import dispatch_window
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers
from coordination.store.queries.tasks import ready
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after
from tests.support.finishing import finish_all
from tests.support.ticks import tick_supervisor
from tests.support.world import World, plan_of
from workers.leases.heartbeat import Heartbeat, write_notes
from workers.leases.in_flight import InFlightAttempts, OutputBuffer
from workers.runners.base import ProcessRecord

LEASE = timedelta(seconds=2)
_PROJECTS = ("example.org/acme/shop", "example.org/acme/site")
_GRAPH = [
    "leaf1 < mid1 mid2 mid3",  # children before what they need: ids are not in the order of the graph
    "leaf2 < mid2 mid3 mid4",
    "leaf3 < mid1 mid4",
    "mid1 < root1 root2",
    "mid2 < root1 root2 root3",
    "mid3 < root2 root3",
    "mid4 < root3 root4",
    *("root1", "root2", "root3", "root4", "alone1", "alone2"),
]


@contextmanager
def refused_by_the_server(store: Store) -> Iterator[list[str]]:
    """Return the statements that the server ended because of a deadlock or a lock time-out, with its messages."""
    refusals: list[str] = []

    def note(context: Any) -> None:
        message = str(context.original_exception)
        if "deadlock detected" in message or "lock timeout" in message:
            refusals.append(f"{message}\n{context.statement}")

    event.listen(store._write_engine, "handle_error", note)
    try:
        yield refusals
    finally:
        event.remove(store._write_engine, "handle_error", note)


class Traffic:
    """Actors on one project of *world*; each has a random order of its own, drawn from *seed*."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unavailable: list[str] = []
        self.accidents: list[BaseException] = []
        self._seed = seed
        self._until = 0.0
        self._lock = threading.Lock()
        self._projects: list[str] = []
        chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
        for _ in range(6):
            self._submit(chance)
        self._budget(chance)

    def flow(self, seconds: float, *, workers: int = 3) -> None:
        """Run all actors for that long."""
        self._until = time.monotonic() + seconds
        people: list[Callable[[random.Random], None]] = [
            self._submit,
            self._cancel,
            self._cancel,
            self._cancel_run,
            self._retry,
            self._retry,
            self._retry_run,
            self._force,
            self._force,
            self._prioritize,
            self._hold,
            self._budget,
        ]
        sweeps: list[Callable[[random.Random], None]] = [self._tick, self._expire, self._retain]
        actors = [partial(self._act, each, number) for number, each in enumerate([people, people, sweeps, sweeps])]
        for number in range(workers):
            one = Worker(self, number)
            actors += [one.work, one.work, one.beat]
        threads = [threading.Thread(target=self._guarded, args=(actor,)) for actor in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._until and not self.accidents

    def once(self, what: str, act: Callable[[], object]) -> None:
        """Execute this once, and count it; a refusal is a result like any other."""
        try:
            act()
        except (DatabaseUnavailable, DBAPIError) as error:
            with self._lock:
                self.unavailable.append(f"{what}: {str(error).splitlines()[0]}")
        except CoordinationError as error:
            with self._lock:
                self.refused[f"{what}: {type(error).__name__}"] += 1
        else:
            with self._lock:
                self.done[what] += 1

    def _guarded(self, actor: Callable[[], None]) -> None:
        try:
            actor()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.accidents.append(error)

    def _act(self, acts: list[Callable[[random.Random], None]], number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")  # noqa: S311
        while self.goes_on:
            act = chance.choice(acts)
            self.once(act.__name__.strip("_"), partial(act, chance))
            time.sleep(chance.random() * 0.01)

    def any_task(self, chance: random.Random, *states: str) -> str | None:
        """Return a task of the newest runs, in one of these states if any are named."""
        with self.world.store.read() as tx:
            newest = select(runs.c.id).order_by(runs.c.id.desc()).limit(4)
            result = select(tasks.c.id).where(tasks.c.run_id.in_(newest))
            ids = list(tx.execute(result.where(tasks.c.state.in_(states)) if states else result).scalars())
        return chance.choice(ids) if ids else None

    def _any_run(self, chance: random.Random) -> str:
        with self.world.store.read() as tx:
            return chance.choice(list(tx.execute(select(runs.c.id).order_by(runs.c.id.desc()).limit(4)).scalars()))

    def _submit(self, chance: random.Random) -> None:
        more = {f"root{number}": {"on_dependency_failure": OnDependencyFailure.RUN} for number in (1, 2)}
        more |= {"mid2": {"on_dependency_failure": OnDependencyFailure.RUN}, "leaf3": {"concurrency_key": "deploy"}}
        plan = plan_of(
            *_GRAPH,
            tasks=more | {"alone1": {"concurrency_key": "deploy"}},
            concurrency=Concurrency(project=12, keys={"deploy": 2}),
            budget=BudgetCap(usd=Decimal(1000)) if chance.random() < 0.5 else None,
        )
        origin = self.world.origin(identity=chance.choice(_PROJECTS))
        run = self.world.store.transact(lambda tx: submit_plan(tx, self.world.workspace, plan, origin))
        with self._lock:
            self._projects = sorted({*self._projects, run.project_id})

    def _cancel(self, chance: random.Random) -> None:
        if (one := self.any_task(chance)) is not None:
            self._write(lambda tx: cancel_task(tx, self.world.workspace, one, actor="ann", why="no"))

    def _cancel_run(self, chance: random.Random) -> None:
        one = self._any_run(chance)
        self._write(lambda tx: cancel_run(tx, self.world.workspace, one, actor="ann", why="no"))

    def _retry(self, chance: random.Random) -> None:
        if (one := self.any_task(chance, "failed", "canceled")) is not None:
            self._write(lambda tx: retry_task(tx, self.world.workspace, one, actor="ann"))

    def _retry_run(self, chance: random.Random) -> None:
        one = self._any_run(chance)
        self._write(lambda tx: retry_run(tx, self.world.workspace, one, actor="ann"))

    def _force(self, chance: random.Random) -> None:
        if (one := self.any_task(chance)) is not None:
            target = chance.choice([TaskState.QUEUED, TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED])
            self._write(lambda tx: force_task(tx, self.world.workspace, one, target, actor="ann", reason="so"))

    def _prioritize(self, chance: random.Random) -> None:
        if (one := self.any_task(chance, "queued", "blocked", "running")) is not None:
            number = chance.randrange(100)
            self._write(lambda tx: change_priority(tx, self.world.workspace, one, number, actor="ann"))

    def _hold(self, chance: random.Random) -> None:
        scope = self.world.workspace, chance.choice(self._projects)
        self._write(lambda tx: pause_project(tx, *scope))
        time.sleep(chance.random() * 0.02)
        self._write(lambda tx: resume_project(tx, *scope, actor="ann"))

    def _budget(self, chance: random.Random) -> None:
        scope = chance.choice([BudgetScope.WORKSPACE, BudgetScope.PROJECT])
        subject = chance.choice(self._projects) if scope is BudgetScope.PROJECT else None
        caps = parse_caps({"usd": Decimal(1000 + chance.randrange(100)), "max_unpriced_calls": 100_000})
        self._write(lambda tx: set_budget(tx, self.world.workspace, caps, scope=scope, subject=subject, actor="ann"))

    def _tick(self, chance: random.Random) -> None:
        tick_supervisor(
            self.world.store,
            self.world.workspace,
            chance.choice(self._projects),
            owner=new_id(),
            window=30,
            enqueue_again_after=timedelta(milliseconds=50),
            rest=timedelta(0),
        )

    def _expire(self, chance: random.Random) -> None:
        one = self.any_task(chance, "running")
        gone = attempts.c.task_id == one, attempts.c.finished_at.is_(None)
        self._write(lambda tx: tx.execute(attempts.update().where(*gone).values(lease_until=db_after(-1.0))))

    def _retain(self, _chance: random.Random) -> None:
        ages = RetentionAges(timedelta(milliseconds=1), timedelta(0), timedelta(milliseconds=500))
        retain(self.world.store, self.world.workspace, ages, rest=lambda _s: not self.goes_on, batch=20)

    def _write(self, act: Callable[[Any], object]) -> None:
        self.world.store.transact(act)


class Worker:
    """One worker process: two threads that claim and end, and a heartbeat."""

    def __init__(self, traffic: Traffic, number: int) -> None:
        self._traffic, self._world = traffic, traffic.world
        self._store = self._world.store
        self._id = self._world.register(new_id())
        self._held = InFlightAttempts()
        row = {"id": self._id, "name": str(number), "host": "here", "boot_id": "b", "pid": 1, "slots": 8}
        terms = LeaseTerms(ttl=LEASE, heartbeat=LEASE / 4)
        self._heartbeat = Heartbeat(self._store, self._held, row | {"version": "0"}, terms=terms)

    def work(self) -> None:
        chance = random.Random(f"{self._id}")  # noqa: S311
        while self._traffic.goes_on:
            claims: list[Claim] = []
            self._traffic.once("claim", partial(self._claim, chance, claims))
            if not claims:
                time.sleep(0.002)
                continue
            entries = self._held.add(claims, sent=time.monotonic())
            for one in entries:
                one.output_buffer = OutputBuffer(100_000, began=0.0)
                one.output_buffer.feed("out", b"working\n")
                one.made_progress = True
                one.process = ProcessRecord(1, 1, 1, "A=b")
                self._held.note(one, EventType.PROGRESS, {"said": "something"})
                self._held.add_carry(one, {"kept": chance.random()})
            if chance.random() < 0.3:
                self._traffic.once("checkpoint", partial(self._checkpoint, claims))
            if chance.random() < 0.2:
                discovered = DiscoveredTask(
                    {"key": f"seen-{new_id()[-8:]}", "run": {"shell": "true"}, "needs": ["root1"]}
                )
                self._traffic.once("find", partial(self._find, chance.choice(claims), discovered))
            time.sleep(chance.random() * 0.02)
            if chance.random() < 0.15:
                self._traffic.once("rescue", lambda: self._store.transact(lambda tx: rescue_worker(tx, self._id)))
            chance.shuffle(entries)
            ends = [(self._decided(chance, one.claim), self._held.begin_end(one)) for one in entries]
            for project_id in sorted({one.project_id for one in claims}):
                mine = [one for one in ends if one[0].claim.project_id == project_id]
                more: list[Claim] = []
                self._traffic.once("end", partial(self._end, project_id, mine, more))
                if more:
                    rest = [(decide_end(one, AttemptEnd(Outcome.COMPLETED), now=datetime.now(UTC)), []) for one in more]
                    self._traffic.once("go on", partial(self._end, project_id, rest, []))
            self._held.drop(*claims)

    def beat(self) -> None:
        while self._traffic.goes_on:
            self._traffic.once("beat", self._heartbeat.beat)
            self._traffic.once("notes", self._heartbeat.write_notes)
            self._traffic.once("stop silent", self._stop_silent)
            time.sleep(0.015)

    def _stop_silent(self) -> None:
        self._store.transact(lambda tx: workers.stop_silent(tx, after=timedelta(milliseconds=200)))

    def _claim(self, chance: random.Random, claims: list[Claim]) -> None:
        with self._store.read() as tx:
            queued = list(tx.execute(select(tasks.c.id).where(tasks.c.state == "queued").limit(60)).scalars())
        ids = chance.sample(queued, min(len(queued), chance.choice((1, 3, 8))))
        if ids:
            claims += self._store.transact(
                lambda tx: claim_tasks(tx, self._world.workspace, ids, worker_id=self._id, lease=LEASE)
            )

    def _checkpoint(self, claims: list[Claim]) -> None:
        records = [
            build_cost_record(one, Usage("m", 1, 1, cost_usd=Decimal("0.001")), datetime.now(UTC)) for one in claims
        ]
        self._store.transact(lambda tx: checkpoint_costs(tx, self._world.workspace, records))

    def _find(self, claim: Claim, found: DiscoveredTask) -> None:
        self._store.transact(
            lambda tx: add_tasks_of_attempt(tx, self._world.workspace, claim.task_id, claim.attempt, [found])
        )

    def _decided(self, chance: random.Random, claim: Claim) -> EndedAttempt:
        outcomes = [Outcome.COMPLETED] * 5 + [Outcome.FAILED] * 2 + [Outcome.DEFERRED, Outcome.HANDED_BACK]
        outcome = chance.choice(outcomes)
        more: dict[str, Any] = {}
        if outcome is Outcome.COMPLETED and chance.random() < 0.2:
            task = {"key": f"more-{new_id()[-8:]}", "run": {"shell": "true"}, "needs": ["root4", "alone2"]}
            more["discovered"] = (DiscoveredTask(task),)
        if outcome is Outcome.FAILED:
            more |= {"error": "no", "retryable": chance.random() < 0.3}
        usage = (Usage("m", 1, 1, cost_usd=Decimal("0.002")),) if chance.random() < 0.5 else ()
        end = AttemptEnd(outcome, usage=usage, **more)
        return decide_end(claim, end, now=datetime.now(UTC), took=timedelta(seconds=1))

    def _end(self, project_id: str, ends: list[Any], more: list[Claim]) -> None:
        def work(tx: Any) -> Any:
            if any(notes for _, notes in ends):
                messages = [(finish.claim, notes) for finish, notes in ends if notes]
                write_notes(tx, self._world.workspace, self._id, messages)
            claim = partial(claim_tasks, tx, self._world.workspace, worker_id=self._id, lease=LEASE, wait=False)
            terms = DispatchTerms(30, lambda _kind: 8, claim=claim, idle_threads=1)
            return finish_all(tx, self._world.workspace, [end for end, _ in ends], worker_id=self._id, terms=terms)

        finished = self._store.transact(work)
        more += [one for share in finished.work.claims for one in share]
        if finished.work.enqueue:  # as when the broker is unreachable
            ids = [one.id for one in finished.work.enqueue]
            self._store.transact(lambda tx: ready.unmark_enqueued(tx, self._world.workspace, ids))
        self._store.transact(
            lambda tx: dispatch_window.fill_window(
                tx, self._world.workspace, project_id, window=30, bundle=lambda _kind: 1
            )
        )


def hurry_deadlocks(store: Store) -> None:
    """Let the server look for deadlocks at once, not after a second, on connections opened from now on."""
    with store.write() as tx:
        name = tx.execute(text("SELECT current_database()")).scalar_one()
        tx.execute(text(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '20ms'"))
    store.close()
