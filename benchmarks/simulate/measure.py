"""Measures what each step costs, with the real parts: the worker's own objects on a real PostgreSQL and a real Redis.

CPU seconds, not times on the clock, wherever it is CPU that is used: other work on the machine changes them little.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import psutil
import psycopg

from benchmarks.bench import Bench, OurStack, no_op
from benchmarks.simulate.accounting import Accounts, fitted
from benchmarks.simulate.times import Operation, ServiceTimes
from coordination import Task
from tests.support.processes import until

_ROUNDS = 20
_BATCH = 64


class Parts:
    """A worker process's own objects in this process, threads and consumer left away, and tasks to work on."""

    def __init__(self, bench: Bench) -> None:
        environment = bench.environment("postgresql", database=5) | {"COORD_LOG_LEVEL": "error"}
        os.environ.update(environment)  # there lifecycle reads how to log
        from coordination.settings import load_settings
        from coordination.store.queries.fleet import workers
        from workers import context as wiring
        from workers.app import make_app
        from workers.broker.publisher import CeleryPublisher
        from workers.engine.committer import Committer
        from workers.maintenance.supervisor_loop import SupervisorLoop
        from workers.process.log_format import configure_logging
        from workers.runners.registry import Runners

        configure_logging()
        self.stack = OurStack("postgresql", environment)
        settings = load_settings()
        publisher = partial(CeleryPublisher, make_app(settings))
        self.context = wiring.make_context(settings, name="simulated", slots=8, publisher=publisher)
        with self.context.store.write() as tx:
            workers.register(tx, self.context.row)
        self.writing = Committer(self.context)
        self.runners = Runners(self.context.worker_id)
        self.supervisor_loop = SupervisorLoop(self.context)
        assert bench.redis.process is not None
        plain = environment["COORD_DATABASE_URL"].replace("+psycopg", "")
        with psycopg.connect(plain) as connection:
            postmaster = psutil.Process(connection.info.backend_pid).ppid()
        self.accounts = Accounts(self.context.store, plain, bench.redis.process.pid, postmaster)
        self.accounts.count_trips()
        self._numbers = itertools.count()

    def ready(self, count: int, *, project: str = "simulated") -> Iterator[str]:
        """Ids of so many ready no-op tasks of a new run."""
        run = self.stack.submit([no_op(f"t{index}") for index in range(count)], project=project)
        self.record = run.record
        with psycopg.connect(self.accounts.database_url) as connection:
            return iter([str(row[0]) for row in connection.execute("SELECT id FROM tasks WHERE run_id = %s", [run.id])])

    def claims(self, ids: Iterator[str], size: int) -> Any:
        """So many of them, claimed."""
        return self.writing.claim(self.record.workspace_id, list(itertools.islice(ids, size))).claims

    def ends(self, claims: Any) -> Any:
        """Their ends, completed."""
        from coordination.base.clock import utc_now
        from coordination.domain.tasks.attempts import AttemptEnd, Outcome
        from coordination.services.attempts.end import decide_end

        return [(decide_end(claim, AttemptEnd(Outcome.COMPLETED, exit_code=0), now=utc_now()), []) for claim in claims]

    def close(self) -> None:
        """Stop what was started."""
        self.runners.close()
        self.context.wakeups.close()
        self.context.store.close()
        self.context.scratch_dir.close()
        self.stack.close()


def measure(bench: Bench, say: Callable[[str], None]) -> ServiceTimes:
    """All service times; a minute or two."""
    rounds = bench.size(_ROUNDS)
    parts = Parts(bench)
    try:
        operations = {
            "claim": _claims(parts, rounds),
            "end_and_enqueue": _ends(parts, rounds, go_on=False),
            "end_and_go_on": _ends(parts, rounds, go_on=True),
            "enqueue": _enqueues(parts, rounds),
            "batch": _batches(parts, rounds),
            "heartbeat": _heartbeats(parts, rounds),
            **_chores(parts, rounds),
        }
        flush, trip = _flush(bench, rounds * 10), _redis_trip(bench, rounds * 100)
        others = [operations[name] for name in ("claim", "end_and_enqueue", "enqueue")]
        operations["long_job"] = _long_jobs(parts, rounds, others)
    finally:
        parts.close()
    operations["message"], real = _real_worker(bench, bench.size(4000))
    alone = (operations["batch"].worker.of(_BATCH) + operations["end_and_go_on"].worker.of(_BATCH)) / _BATCH
    contention = max(1.0, real / alone)
    for name, operation in operations.items():
        say(f"{name}: {shown(operation)}")
    say(f"contention: {contention:.2f}")
    return ServiceTimes(operations, flush, trip, contention, "")


def shown(operation: Operation) -> str:
    """The parts that are not nothing, fixed + each."""
    said = []
    for part in ("worker", "child", "database", "redis"):
        cost = getattr(operation, part)
        if cost.fixed or cost.each:
            said.append(f"{part} {cost.fixed * 1e6:,.0f} + {cost.each * 1e6:,.1f} us")
    said += [f"commits {operation.commits.of(1):.1f}", f"trips {operation.trips.of(1):.0f}"]
    said.append(f"log {operation.log.fixed:,.0f} + {operation.log.each:,.0f} B")
    return ", ".join(said)


def _claims(parts: Parts, rounds: int) -> Operation:
    found = {}
    for size in (1, 8, _BATCH):
        ids = parts.ready(size * (rounds + 3))
        for _ in range(3):
            parts.claims(ids, size)
        found[size] = parts.accounts.used([partial(parts.claims, ids, size)] * rounds)
    return fitted(found)


def _ends(parts: Parts, rounds: int, *, go_on: bool) -> Operation:
    """Measure ends with more ready tasks: enqueued (a message each), or claimed at once by the thread (short kinds)."""
    from workers.leases.in_flight import AttemptLocation

    found = {}
    for size in (1, 8, _BATCH) if not go_on else (8, _BATCH):
        ids = parts.ready(2 * size * (rounds + 4), project=f"ends-{go_on}-{size}")
        ends = [parts.ends(parts.claims(ids, size)) for _ in range(rounds + 3)]
        claim = ends[0][0][0].claim
        place = AttemptLocation(claim.workspace_id, claim.project_id, claim.project)
        parts.context.duration_stats._kinds.clear()  # noqa: SLF001
        if go_on:
            while parts.context.duration_stats.bundle(claim.project_id, claim.kind) < size:
                parts.context.duration_stats.learn(claim.project_id, claim.kind, timedelta(microseconds=10))

        def end(some: Any, place: AttemptLocation = place) -> Any:
            return parts.writing.end(place, some, go_on=True, refill=not go_on)

        for some in ends[:3]:
            end(some)
        found[size] = parts.accounts.used([partial(end, some) for some in ends[3:]])
        parts.context.duration_stats._kinds.clear()  # noqa: SLF001
        _cancel(parts)
    return fitted(found)


def _cancel(parts: Parts) -> None:
    """What is left of the last run is not in the way of what is measured next."""
    with psycopg.connect(parts.accounts.database_url) as connection:
        connection.execute(
            "UPDATE tasks SET state = 'canceled', reasons = 0, finished_at = now() WHERE state IN ('queued', 'running')"
        )
        connection.execute("UPDATE attempts SET finished_at = now(), outcome = 'canceled' WHERE finished_at IS NULL")


def _enqueues(parts: Parts, rounds: int) -> Operation:
    from coordination.base.ids import new_id
    from coordination.store.queries.tasks.ready import ReadyTask

    found = {}
    workspace = new_id()
    for size in (1, _BATCH):
        tasks = [ReadyTask(new_id(), 1, f"t{index}", "", "python:x") for index in range(size)]
        act = partial(parts.context.publisher.publish, workspace, "p", tasks, bundle={"python:x": size}.__getitem__)
        act()
        found[size] = parts.accounts.used([act] * rounds * 5)
        parts.context.wakeups.client.flushdb()
    return fitted(found)


class _Watched:
    """The worker's writing, with the CPU time that was spent in it: what it costs is measured by itself."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def claim(self, *asked: Any) -> Any:
        began = time.process_time()
        try:
            return self._real.claim(*asked)
        finally:
            self.seconds += time.process_time() - began

    def end(self, *asked: Any) -> Any:
        began = time.process_time()
        try:
            return self._real.end(*asked)
        finally:
            self.seconds += time.process_time() - began


def _batches(parts: Parts, rounds: int) -> Operation:
    """All between a message and the last write, but for the writes: jobs that do nothing, in a warm interpreter."""
    from workers.engine.executor import Executor

    execution = Executor(parts.context, parts.runners, parts.supervisor_loop)
    execution._committer = watched = _Watched(parts.writing)  # type: ignore[assignment]  # noqa: SLF001
    found = {}
    for size in (1, 8, _BATCH):
        batches = [list(parts.ready(size)) for _ in range(rounds + 3)]
        workspace = parts.record.workspace_id
        for ids in batches[:3]:
            execution.run_tasks(workspace, ids)
        watched.seconds = 0.0
        used = parts.accounts.used([partial(execution.run_tasks, workspace, ids) for ids in batches[3:]])
        found[size] = {part: used[part] if part == "child" else 0.0 for part in used}
        found[size]["worker"] = used["worker"] - watched.seconds / rounds
        parts.context.duration_stats._kinds.clear()  # noqa: SLF001
        _cancel(parts)
    return fitted(found)


def _long_jobs(parts: Parts, rounds: int, others: Sequence[Operation]) -> Operation:
    """What a job that takes a while costs beside *others*: a line of its own, a note that it started."""
    from workers.engine.executor import Executor

    execution = Executor(parts.context, parts.runners, parts.supervisor_loop)
    task = {"python": "benchmarks.jobs:nap_50", "args": {"seconds": 0.05}}
    run = parts.stack.submit([Task(f"t{index}", task) for index in range(2 * rounds + 40)], project="naps")
    with psycopg.connect(parts.accounts.database_url) as connection:
        rows = connection.execute("SELECT id FROM tasks WHERE run_id = %s ORDER BY id", [run.id])
        ids = [str(row[0]) for row in rows]
    workspace = run.record.workspace_id
    for one in ids[:3]:
        execution.run_tasks(workspace, [one])
    used = parts.accounts.used([partial(execution.run_tasks, workspace, [one]) for one in ids[3 : rounds + 3]])
    for operation in others:
        for part in used:
            used[part] = max(0.0, used[part] - getattr(operation, part).of(1))
    parts.context.wakeups.client.flushdb()
    _cancel(parts)
    return fitted({1: {**used, "commits": 0.0}})


def _heartbeats(parts: Parts, rounds: int) -> Operation:
    found = {}
    for size in (1, 100):
        ids = parts.ready(size)
        claims = parts.claims(ids, size)
        parts.context.in_flight.add(claims, sent=time.monotonic())
        parts.context.heartbeat.beat()
        found[size] = parts.accounts.used([parts.context.heartbeat.beat] * rounds)
        parts.context.in_flight.drop(*claims)
        _cancel(parts)
    return fitted(found)


def _chores(parts: Parts, rounds: int) -> dict[str, Operation]:
    """What goes on beside the jobs: ticks, sweeps, searches for prefetched tasks, the size of the fleet."""
    from coordination.store.queries.fleet import supervisors, workers
    from tests.support.ticks import tick_supervisor

    context, used = parts.context, parts.accounts.used
    ticks = {}
    for size in (1, 32):
        ids = parts.ready(size * (rounds + 2), project=f"ticks-{size}")
        parts.claims(ids, 1)  # one attempt is in flight, so the run stays open
        workspace, project = parts.record.workspace_id, parts.record.project_id
        with psycopg.connect(parts.accounts.database_url) as connection:
            connection.execute("UPDATE tasks SET enqueued_at = NULL WHERE project_id = %s", [project])

        def tick(count: int, workspace: str = workspace, project: str = project) -> None:
            ticked = tick_supervisor(
                context.store, workspace, project, owner="x", window=count, lease=timedelta(seconds=30)
            )
            assert ticked is not None
            parts.claims(iter([one.id for one in ticked.ring]), count)

        found = used([partial(tick, size)] * rounds)
        # the claims in between are not the tick's
        claims = used([partial(parts.claims, parts.ready(rounds * size), size)] * rounds)
        ticks[size] = {part: max(0.0, found[part] - claims[part]) for part in found}
        _cancel(parts)
    parts.ready(50, project="chores")
    with psycopg.connect(parts.accounts.database_url) as connection:
        connection.execute("UPDATE supervisors SET tick_until = now() + interval '1 hour'")

    def nothing_due() -> None:
        with context.store.write() as tx:
            begun = supervisors.begin_due_tick(tx, every=timedelta(0), owner="y", lease=timedelta(seconds=30))
        assert begun is None

    def sweep() -> None:
        with context.store.write() as tx:
            workers.stop_silent(tx, after=context.terms.ttl * 3)

    def size_of_fleet() -> None:
        with context.store.read() as tx:
            workers.count_live_slots(tx, within=context.terms.ttl)

    from workers.process.prefetch_recovery import PrefetchRecovery

    recovery = PrefetchRecovery(context, free=lambda: 8, work_off=lambda *_: None)
    look = recovery.poll
    context.wakeups.client.flushdb()  # with a message in the queue no worker searches for prefetched tasks
    for act in (nothing_due, sweep, look, size_of_fleet):
        act()
    quiet = {
        name: fitted({1: used([act] * rounds * 5)})
        for name, act in {
            "nothing_due": nothing_due,
            "sweep": sweep,
            "prefetch_recovery": look,
            "fleet_size": size_of_fleet,
        }.items()
    }
    _cancel(parts)
    return {"tick": fitted(ticks), **quiet}


def _real_worker(bench: Bench, count: int) -> tuple[Operation, float]:
    """What a real worker pays to fetch a message, hand it to a thread and acknowledge it; these say nothing useful.

    And its CPU seconds for a task that does nothing, of very many, by all its threads.
    """
    from coordination.settings import load_settings
    from workers.app import make_app
    from workers.broker import queues

    environment = bench.environment("postgresql", database=6) | {"COORD_LOG_LEVEL": "error"}
    app = make_app(load_settings(environment))
    stack = OurStack("postgresql", environment)
    client = bench.redis.client()
    try:
        client.select(6)
        worker = stack.start_worker()
        time.sleep(1)
        redis_pid = bench.redis.process.pid if bench.redis.process else 0
        from benchmarks.simulate.accounting import cpu_of

        def send(number: int) -> None:
            with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
                for _ in range(number):
                    app.send_task("coordination.run", ["no workspace", []], queue=queues.JOBS, producer=producer)

        send(200)
        until(lambda: client.llen(queues.PREFIX + queues.JOBS) == 0, within=timedelta(seconds=30), what="it is read")
        worker.signal(19)  # SIGSTOP: so that sending is not counted
        send(count)
        before = cpu_of(worker.pid), cpu_of(redis_pid)
        worker.signal(18)
        until(lambda: client.llen(queues.PREFIX + queues.JOBS) == 0, within=timedelta(seconds=120), what="all is read")
        time.sleep(0.3)
        used = {
            "worker": (cpu_of(worker.pid) - before[0]) / count,
            "redis": (cpu_of(redis_pid) - before[1]) / count,
        }
        stack.seconds([no_op(f"t{index}") for index in range(count)])
        run = stack.submit([no_op(f"t{index}") for index in range(2 * count)])
        working = cpu_of(worker.pid)
        stack.end_of(run)
        a_task = (cpu_of(worker.pid) - working) / (2 * count)
    finally:
        client.close()
        stack.close()
    none = dict.fromkeys(("child", "database", "commits", "trips", "log"), 0.0)
    return fitted({1: none | used}), a_task


def _flush(bench: Bench, count: int) -> float:
    """Seconds on the clock that a small commit waits for the disk, without its CPU: the median."""
    taken = []
    with psycopg.connect(bench.blank_database(), autocommit=True) as connection:
        connection.execute("CREATE TABLE rows (id bigint)")
        connection.execute("SET synchronous_commit = off")
        for settings in ("off", "on"):
            connection.execute(f"SET synchronous_commit = {settings}")
            found = []
            for number in range(count):
                began = time.perf_counter()
                connection.execute("INSERT INTO rows VALUES (%s)", [number])
                found.append(time.perf_counter() - began)
            taken.append(statistics.median(found))
    return max(0.0, taken[1] - taken[0])


def _redis_trip(bench: Bench, count: int) -> float:
    with bench.redis.client() as client:
        found = []
        for _ in range(count):
            began = time.perf_counter()
            client.ping()
            found.append(time.perf_counter() - began)
    return statistics.median(found)
