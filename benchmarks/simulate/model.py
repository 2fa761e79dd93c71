"""The fleet as a model: worker processes with their threads and chores, one PostgreSQL, one Redis, projects with work.

What is modelled as it happens: the consumer's buffer, slots, one claim and one end per process and project at a time
with the others joining the next one, batches, threads that continue with ready work a while, windows, messages, the
interpreter's lock of each process, group commit, heartbeats, sweeps that tick what is due, search of prefetched tasks.
What is not: waits for row locks, failures, retention, plans with edges, memory, vacuum, checkpoints.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

from benchmarks.simulate.kernel import Process, Server, SharedFlush, Signal, Simulation
from benchmarks.simulate.times import Operation, ServiceTimes

MOMENT = 0.02  # as in workers.leases.duration_stats: how much work one batch may hold, and how many tasks
LARGEST = 64
_ALONE = 0.02  # jobs of at least that length run alone, with a line of their own
_CONTINUE_FOR = 0.25  # as in workers.engine.executor
_THREADS = 8  # with so many at once contention was measured
_TURN = 0.005  # sys.getswitchinterval()
_LONG = 1.0  # jobs that are in their middle when the story begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is asked about. Seconds.

    *job*: how long a job takes, *job_cpu*: how much of it is CPU on the worker's machine. *cores*: of each worker
    process's machine; *shared_cores*: None, or the cores that workers and servers all share. *arrivals*: tasks a second
    (None: there is always work). *tasks*: end after so many.
    """

    workers: int
    job: float
    projects: int = 1
    slots: int = 8
    database_cores: int = 16
    shared_cores: int | None = None
    worker_cores: int = 2
    job_cpu: float = 0.0
    trip: float = 0.0
    arrivals: float | None = None
    tasks: int | None = None
    heartbeat: float = 10.0
    sweep: float = 5.0
    tick: float = 5.0
    look: float = 1.0
    seed: int = 1


@dataclass(slots=True)
class Project:
    """Ready tasks that wait in SQL (arrival times), and how many messages are out."""

    number: int
    ready: deque[float] = field(default_factory=deque)
    out: int = 0


@dataclass(slots=True)
class Message:
    """A message: for how many tasks of which project, and when it was sent."""

    project: Project
    size: int
    enqueued: float


@dataclass(slots=True)
class Result:
    """What happened during the time that counts."""

    seconds: float
    tasks: int
    waits: list[float]
    database: float
    flushing: float
    commits: float
    redis: float
    worker: float
    slots: float
    ticks: float
    late: float
    backlog: int
    log_bytes: float
    connections: float

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return self.tasks / self.seconds

    def wait(self, share: float) -> float:
        """The wait from message to start that this share of the messages did not exceed; NaN without any."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class _Joined:
    """One writer at a time; who comes meanwhile is in the next transaction (workers.engine.committer)."""

    def __init__(self, world: World, worker: Worker, operation: Operation) -> None:
        self._world, self._worker, self._operation = world, worker, operation
        self._gathered: list[tuple[int, Signal]] = []
        self._busy = False

    def ask(self, number: int) -> Signal:
        done = Signal(self._world.simulation)
        self._gathered.append((number, done))
        if not self._busy:
            self._busy = True
            self._world.simulation.start(self._lead())
        return done

    def _lead(self) -> Process:
        while self._gathered:
            group, self._gathered = self._gathered[:64], self._gathered[64:]
            yield from self._world.write(self._worker, self._operation, sum(number for number, _ in group))
            for _, done in group:
                done.give()
        self._busy = False


class Worker:
    """One worker process: a lock that one thread holds at a time, its machine's cores, slots, a buffer of messages."""

    def __init__(self, world: World) -> None:
        fleet, simulation = world.fleet, world.simulation
        self.world = world
        self.lock = Server(simulation, 1)
        self.cores = world.shared or Server(simulation, fleet.worker_cores)
        self.slots = Server(simulation, fleet.slots)
        self.room = Signal(simulation)
        self.buffered = 0
        self.held = 0
        self.open = 0  # transactions, and how many there were at once at most
        self.most_open = 0
        self.claims = _Joined(world, self, world.times["claim"])
        self._ends: dict[tuple[int, bool], _Joined] = {}

    def end(self, project: Project, *, go_on: bool) -> _Joined:
        key = (id(project), go_on)
        if key not in self._ends:
            operation = self.world.times["end_and_go_on" if go_on else "end_and_enqueue"]
            self._ends[key] = _Joined(self.world, self, operation)
        return self._ends[key]

    def consume(self) -> Process:
        """Celery's consumer: fetches while there is room for so many messages as there are slots."""
        world = self.world
        while True:
            if self.buffered >= world.fleet.slots:
                self.room = Signal(world.simulation)
                yield self.room
                continue
            if not world.queue:
                signal = Signal(world.simulation)
                world.idle.append(signal)
                yield signal
                continue
            message = world.queue.popleft()
            self.buffered += 1
            yield from world.redis(world.times["message"].redis.fixed)
            yield from self.compute(world.times["message"].worker.fixed)
            world.simulation.start(self._thread(message))

    def compute(self, seconds: float) -> Process:
        """Python in this process: one thread at a time, and the next one's turn after five milliseconds."""
        others = min(self.slots.used, _THREADS) - 1
        if others > 0 and self.world.fleet.job < _ALONE:
            seconds *= 1 + (self.world.times.contention - 1) * others / (_THREADS - 1)
        while seconds > 0:
            turn = min(seconds, _TURN)
            seconds -= turn
            yield self.lock
            yield self.cores
            yield turn
            self.cores.release()
            self.lock.release()

    def _thread(self, message: Message) -> Process:
        world = self.world
        project = message.project
        yield self.slots
        self.buffered -= 1
        self.room.give()
        began = world.simulation.now
        yield self.claims.ask(message.size)
        project.out -= 1
        world.waits.append((world.simulation.now, world.simulation.now - message.enqueued))
        size = message.size
        while size:
            self.held += size
            yield from self._run(size)
            self.held -= size
            short = world.batch_size > 1 and world.simulation.now - began < _CONTINUE_FOR and bool(project.ready)
            taken = world.take(project, world.batch_size) if short else 0
            yield self.end(project, go_on=bool(taken)).ask(size)
            world.done += size
            if not taken:
                yield from world.enqueue(self, project)
            size = taken
        self.slots.release()

    def _run(self, size: int) -> Process:
        world, fleet = self.world, self.world.fleet
        batch = world.times["batch" if fleet.job < _ALONE else "long_job"]
        yield from self.compute(batch.worker.of(size) / 2)
        cpu = batch.child.of(size) + fleet.job_cpu * size
        if cpu:
            yield self.cores
            yield cpu
            self.cores.release()
        if batch.database.fixed:
            yield from world.query(batch.database.of(size))
        yield max(0.0, fleet.job - fleet.job_cpu) * size
        yield from self.compute(batch.worker.of(size) / 2)

    def chores(self) -> Process:
        """Heartbeat, sweep and look, each in a thread of its own, at a moment of its own."""
        world, fleet = self.world, self.world.fleet
        at = world.random.random
        world.simulation.start(self._beat(), after=at() * fleet.heartbeat)
        world.simulation.start(self._sweep(), after=at() * fleet.sweep)
        world.simulation.start(self._look(), after=at() * fleet.look)
        yield 0.0

    def _beat(self) -> Process:
        while True:
            began = self.world.simulation.now
            yield from self.world.write(self, self.world.times["heartbeat"], self.held)
            self.world.beats.append(self.world.simulation.now - began)
            yield self.world.fleet.heartbeat

    def _look(self) -> Process:
        world = self.world
        while True:
            yield world.fleet.look
            if self.slots.used < world.fleet.slots and not world.queue:
                yield from world.write(self, world.times["prefetch_recovery"], 1)
            # the fleet's size is asked for every five seconds
            if world.random.random() < world.fleet.look / 5:
                yield from world.write(self, world.times["fleet_size"], 1)

    def _sweep(self) -> Process:
        world, fleet = self.world, self.world.fleet
        while True:
            began = world.simulation.now
            yield from world.write(self, world.times["sweep"], 1)
            while (project := world.next_due()) is not None:
                yield from world.write(self, world.times["tick"], 1)
                world.has_ticked(project)
                yield from world.enqueue(self, project)
            yield from world.write(self, world.times["nothing_due"], 1)
            yield max(0.0, began + fleet.sweep - world.simulation.now)


class World:
    """Everything together."""

    def __init__(self, times: ServiceTimes, fleet: Fleet) -> None:
        self.times, self.fleet = times, fleet
        self.simulation = Simulation()
        self.random = random.Random(fleet.seed)  # noqa: S311 - nothing secret
        self.shared = Server(self.simulation, fleet.shared_cores) if fleet.shared_cores else None
        self.database = self.shared or Server(self.simulation, fleet.database_cores)
        self._redis = Server(self.simulation, 1)
        self.flush = SharedFlush(self.simulation, times.flush)
        self.queue: deque[Message] = deque()
        self.idle: deque[Signal] = deque()
        self.projects = [Project(number) for number in range(fleet.projects)]
        self._resting = [(-self.random.random() * fleet.tick, project.number) for project in self.projects]
        heapq.heapify(self._resting)
        mean = max(fleet.job, times["batch"].child.each + times["batch"].worker.each)
        self.batch_size = max(1, min(LARGEST, int(MOMENT / mean)))
        self.window = max(8, 2 * fleet.slots * fleet.workers)
        if fleet.arrivals is None:
            # In truth each project has a window of that size; that only makes the queue longer, no task quicker.
            self.window = -(-self.window // fleet.projects)
        self.waits: list[tuple[float, float]] = []
        self.beats: list[float] = []
        self.done = 0
        self.ticks = 0
        self.database_seconds = 0.0
        self.log_bytes = 0.0
        self.workers = [Worker(self) for _ in range(fleet.workers)]

    # --- what the servers do

    def write(self, worker: Worker, operation: Operation, number: float) -> Process:
        """One transaction: the worker's part, the database's part, the disk."""
        fleet = self.fleet
        trips = max(1, round(operation.trips.of(number)))
        computing, asking = operation.worker.of(number) / trips, operation.database.of(number) / trips
        worker.open += 1
        worker.most_open = max(worker.most_open, worker.open)
        self.log_bytes += operation.log.of(number)
        if operation.redis.fixed:
            yield from self.redis(operation.redis.of(number))
        for _ in range(trips):
            # After each answer the thread waits for its process's lock anew.
            yield from worker.compute(computing)
            yield fleet.trip
            yield from self.query(asking)
        for _ in range(round(operation.commits.of(number))):
            yield self.flush.ask()
        worker.open -= 1

    def query(self, seconds: float) -> Process:
        """The database's own work; one core for each statement."""
        self.database_seconds += seconds
        yield self.database
        yield seconds
        self.database.release()

    def redis(self, seconds: float) -> Process:
        """One command there and back."""
        yield self._redis
        if self.shared:
            yield self.shared
        yield seconds
        if self.shared:
            self.shared.release()
        self._redis.release()
        yield self.fleet.trip

    # --- what the store holds

    def take(self, project: Project, most: int) -> int:
        """So many of the project's ready tasks, not more than there are."""
        number = min(most, len(project.ready))
        for _ in range(number):
            project.ready.popleft()
        return number

    def next_due(self) -> Project | None:
        """Take the project that has waited longest; nobody else gets it before it ``has_ticked``."""
        if not self._resting or self._resting[0][0] > self.simulation.now - self.fleet.tick:
            return None
        return self.projects[heapq.heappop(self._resting)[1]]

    def has_ticked(self, project: Project) -> None:
        """It rests from now on."""
        self.ticks += 1
        heapq.heappush(self._resting, (self.simulation.now, project.number))

    def enqueue(self, worker: Worker, project: Project) -> Process:
        """Fill the project's window and send the messages."""
        while project.out < self.window and project.ready:
            size = self.take(project, self.batch_size)
            project.out += 1
            cost = self.times["enqueue"]
            yield from worker.compute(cost.worker.of(size))
            yield from self.redis(cost.redis.of(size))
            self.put(Message(project, size, self.simulation.now))

    def put(self, message: Message) -> None:
        """Into the one queue of jobs."""
        self.queue.append(message)
        if self.idle:
            self.idle.popleft().give()

    # --- the story

    def run(self, *, warm_up: float, seconds: float) -> Result:
        """Let it run, and tell what happened after the warm-up."""
        self._fill()
        fleet = self.fleet
        busy = 1.0 if fleet.arrivals is None else fleet.arrivals * fleet.job / fleet.workers / fleet.slots
        for worker in self.workers:
            if fleet.tasks is None and fleet.job >= _LONG:
                for _ in range(fleet.slots):
                    if self.random.random() < busy:
                        self.simulation.start(self._resume(worker))
            self.simulation.start(worker.consume())
            self.simulation.start(worker.chores())
        self.simulation.run(warm_up)
        before = self._counts()
        ticks_before = self.ticks
        beats = len(self.beats)
        if self.fleet.tasks is None:
            self.simulation.run(warm_up + seconds)
        else:
            while self.done < self.fleet.tasks and self.simulation.now < warm_up + seconds:
                self.simulation.run(self.simulation.now + 0.01)
        after = self._counts()
        passed = self.simulation.now - warm_up
        used = [late - early for late, early in zip(after, before, strict=True)]
        return Result(
            seconds=passed,
            tasks=int(used[0]),
            waits=[wait for at, wait in self.waits if at > warm_up],
            database=used[1] / passed / (fleet.shared_cores or fleet.database_cores),
            flushing=used[2] * self.times.flush / passed,
            commits=used[3] / passed,
            redis=used[4] / passed,
            worker=used[5] / passed / fleet.workers,
            slots=used[6] / passed / fleet.workers / fleet.slots,
            ticks=(self.ticks - ticks_before) / passed,
            late=max(self.beats[beats:], default=0.0),
            backlog=sum(len(project.ready) for project in self.projects),
            log_bytes=used[7] / passed,
            connections=sum(worker.most_open for worker in self.workers) / fleet.workers,
        )

    def _counts(self) -> list[float]:
        return [
            self.done,
            self.database_seconds,
            self.flush.flushes,
            self.flush.asked,
            self._redis.busy(),
            sum(worker.lock.busy() for worker in self.workers),
            sum(worker.slots.busy() for worker in self.workers),
            self.log_bytes,
        ]

    def _fill(self) -> None:
        fleet = self.fleet
        if fleet.arrivals is not None:
            self.simulation.start(self._arrive(fleet.arrivals))
            return
        for project in self.projects:
            project.ready = _Endless() if fleet.tasks is None else deque([0.0] * (fleet.tasks // fleet.projects))
            while project.ready and project.out < self.window:  # the submission has enqueued
                project.out += 1
                self.put(Message(project, self.take(project, self.batch_size), 0.0))

    def _resume(self, worker: Worker) -> Process:
        """A job that is somewhere in its middle when the story begins."""
        project = self.random.choice(self.projects)
        yield worker.slots
        worker.held += 1
        yield self.random.random() * self.fleet.job
        worker.held -= 1
        yield worker.end(project, go_on=False).ask(1)
        self.done += 1
        yield from self.enqueue(worker, project)
        worker.slots.release()

    def _arrive(self, rate: float) -> Process:
        """Tasks come one by one, at random moments; the submission enqueues them as the end of another task would."""
        while True:
            yield self.random.expovariate(rate / self.batch_size)
            project = self.random.choice(self.projects)
            if project.out < self.window:
                project.out += 1
                self.put(Message(project, self.batch_size, self.simulation.now))
            else:
                project.ready.extend([self.simulation.now] * self.batch_size)


class _Endless(deque[float]):
    """There is always more."""

    def __len__(self) -> int:
        return 1_000_000_000

    def __bool__(self) -> bool:
        return True

    def popleft(self) -> float:
        return 0.0
