"""One run from start to verdict: stack, people, faults, healing, the end of all plans, the checker, the report."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import redis

from tests.chaos import checker
from tests.chaos.checker import facts as facts_module
from tests.chaos.checker.rules import Kind, Violation, rescued_in_time
from tests.chaos.faults import KINDS, Fault
from tests.chaos.people import People
from tests.chaos.report import FaultRecord, Report, figures
from tests.chaos.schedule import ALONE, RATE, STORM, Schedule, kinds_for
from tests.chaos.stack import LEASE, SWEEP, Settings, Stack, marked
from tests.chaos.timer import Timer
from tests.support.scratch import scratch_folder

MARGIN = 15.0
"""What a busy machine may add to a promise: starting a worker takes seconds when both cores are taken."""

BOUND = LEASE + SWEEP + MARGIN
_LONGEST_END = 600.0
_KEYS = (b"coord:_kombu.", b"coord:jobs", b"coord:supervise", b"coord:wakeups", b"coord:wake:")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    seed: int
    minutes: float
    store: str
    faults: tuple[str, ...] | None = None
    workers: int = 3
    backlog: int = 200
    rate: float = RATE
    keep: Path | None = None  # where a failed run is kept
    keep_always: bool = False

    @property
    def replay(self) -> str:
        """Return the command that repeats the run."""
        kinds = f" --faults '{','.join(self.faults)}'" if self.faults else ""
        return f"python -m tests.chaos --seed {self.seed} --minutes {self.minutes:g} --store {self.store}{kinds}"


def run(options: Options, say: Callable[[str], None]) -> Report:
    """Execute the run; the report has the violations. A run with any is kept in ``options.keep``."""
    with scratch_folder() as folder:
        # The other draws do not depend on the number of faults.
        stack_choice, people_choice = (random.Random(options.seed + more) for more in (1, 2))  # noqa: S311 - no secret
        settings = Settings(options.store, options.workers, append_only=bool(options.seed % 2))
        stack = Stack(folder, settings, stack_choice)
        try:
            stack.up()
            people = People(stack, people_choice, backlog=options.backlog)
            try:
                report = Run(options, stack, people, say).to_the_end()
            finally:
                people.close()
        finally:
            stack.down()
            if options.keep is not None and (options.keep_always or _has_failed(locals().get("report"))):
                _keep(folder, options.keep, say)
            stack.unmount()
    return report


def _has_failed(report: object) -> bool:
    return not isinstance(report, Report) or bool(report.violations)


def _keep(folder: Path, place: Path, say: Callable[[str], None]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    sockets = shutil.ignore_patterns("*.sock", ".s.PGSQL*", "core", "core.*")
    with suppress(shutil.Error):
        shutil.copytree(folder, place, ignore=sockets, symlinks=True)
    say(f"kept: {place} (logs, evidence, the database)")


class Run:
    """The faults of one run, and their records."""

    def __init__(self, options: Options, stack: Stack, people: People, say: Callable[[str], None]) -> None:
        self._options, self._stack, self._people, self._say = options, stack, people, say
        self._timer = Timer(lambda error: say(f"something that was due could not be done: {error!r}"))
        self.records: list[FaultRecord] = []
        self._violations: list[Violation] = []

    def to_the_end(self) -> Report:
        """Execute load, storms, quiet time, checks."""
        began = time.monotonic()
        stack, people = self._stack, self._people
        kinds = kinds_for(stack, self._options.faults, seconds=self._options.minutes * 60)
        absent = sorted(set(KINDS) - {kind.name for kind in kinds})
        if absent and not self._options.faults:
            self._say(f"not on this store, on this machine or in so short a time: {', '.join(absent)}")
        stack.work()
        people.start()
        stack.await_workers()
        faults_began = time.monotonic()
        self._torment(Schedule(self._options.seed, kinds, rate=self._options.rate), faults_began)
        tormented = time.monotonic() - faults_began
        self._say(f"{len(self.records)} faults in {tormented:.0f} s; now everything is healed and the plans must end")
        self._heal_all()
        self._timer.close()
        people.stop_feeding()
        self._await_the_end()
        if not self._violations:
            with suppress(Exception):
                reopened = people.retry_failed()
                self._say(f"{reopened} tasks that had failed are asked for again by a person")
            self._await_the_end()
        stack.rest()
        self._violations += self._left_behind()
        deadlocks = stack.deadlocks()
        self._violations += [Violation(Kind.DEADLOCK, each) for each in deadlocks]
        hit = frozenset(pid for record in self.records for pid in record.victims)
        promises = replace(people.acknowledged(), hit=hit)
        self._violations += checker.check(stack.database_url, stack.evidence, promises)
        facts = facts_module.read(stack.database_url)
        epoch = time.time() - _up()
        # A fault in which no worker can write excuses a late recovery, with the time that workers need after it;
        # so does a time without any worker that could write.
        disturbed = [(epoch + each.at, epoch + each.at + each.duration + 1) for each in self.records if each.broad]
        disturbed += [(epoch + since, epoch + to) for since, to in stack.without_workers]
        self._violations += rescued_in_time(facts, disturbed, SWEEP + MARGIN)
        return figures(
            seed=self._options.seed,
            store=self._options.store,
            command=self._options.replay,
            seconds=time.monotonic() - began,
            tormented=tormented,
            records=self.records,
            facts=facts,
            evidence_file=stack.evidence,
            violations=self._violations,
            epoch=epoch,
            bound=BOUND,
            decisions=people.decisions,
            tracebacks=_tracebacks(stack.logs),
            deadlocks=len(deadlocks),
        )

    def _torment(self, schedule: Schedule, began: float) -> None:
        until = began + self._options.minutes * 60
        while time.monotonic() < until:
            if self._people.accident is not None:
                raise self._people.accident
            storm_began = time.monotonic()
            for due in schedule.storm(min(STORM, until - storm_began)):
                time.sleep(max(0.0, storm_began + due.after - time.monotonic()))
                self._inject(due.fault, alone=False)
            self._timer.drain()
            for _ in range(ALONE):
                if time.monotonic() < until:
                    self._one_alone(schedule)
            self._stack.tail.read()
            self._say(
                f"{time.monotonic() - began:6.0f} s  {len(self.records)} faults, {self._stack.tail.ended} jobs done"
            )

    def _one_alone(self, schedule: Schedule) -> None:
        self._quiet(within=LEASE + 3)
        fault = schedule.alone()
        if self._inject(fault, alone=True):
            self._timer.drain()
            self._quiet(within=LEASE + 4)

    def _quiet(self, *, within: float) -> None:
        """Wait until the running jobs have ended or run again, as the evidence shows later; here: jobs end."""
        deadline = time.monotonic() + within
        self._stack.tail.read()
        target = self._stack.tail.ended + 40
        while time.monotonic() < deadline and self._stack.tail.ended < target:
            time.sleep(0.1)
            self._stack.tail.read()

    def _inject(self, fault: Fault, *, alone: bool) -> bool:
        at = _up()
        try:
            hit = fault.inject(self._stack, self._timer.after)
        except (OSError, psutil.Error, subprocess.SubprocessError) as error:
            self._say(f"{fault.name} could not be done: {error}")
            return False
        if hit is None:
            return False
        record = FaultRecord(fault.name, at, fault.duration, hit.what, frozenset(hit.victims), alone, fault.broad)
        self.records.append(record)
        with (self._stack.folder / "faults").open("a") as file:
            file.write(f"{at:.3f} {fault.name}: {hit.what}{' (alone)' if alone else ''}\n")
        if hit.heal is not None:
            self._timer.after(fault.duration, hit.heal)
        return True

    def _heal_all(self) -> None:
        self._timer.drain()
        self._stack.heal_networks()

    def _await_the_end(self) -> None:
        """Wait until every run ends; nothing may stand still for longer than the bound meanwhile."""
        people = self._people
        began = moved = time.monotonic()
        newest = -1
        while waiting := people.open_tasks():
            now, last = time.monotonic(), people.last_event()
            if last != newest:
                newest, moved = last, now
            if now - moved > BOUND or now - began > _LONGEST_END:
                states = [f"{task} {state} {reasons}" for task, state, reasons in waiting[:20]]
                what = f"{len(waiting)} tasks have not ended, and nothing moved for {now - moved:.0f} s: {states}"
                self._violations.append(Violation(Kind.LATE, what))
                return
            time.sleep(0.2)

    def _left_behind(self) -> list[Violation]:
        left = [
            Violation(Kind.LEFT, f"process {process.pid} {_command(process)}")
            for process in marked(self._stack.folder)
            if not _is_harness(process, self._stack)
        ]
        with suppress(redis.RedisError), self._stack.valkey.client() as client:
            unknown = [key for key in client.scan_iter() if not key.startswith(_KEYS)]
            left += [Violation(Kind.LEFT, f"the key {key!r} in Redis") for key in unknown]
        return left


def _is_harness(process: psutil.Process, stack: Stack) -> bool:
    command = _command(process)
    return "proxy.py" in command or "postgres" in command or "valkey" in command


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()) or process.name()
    return "(gone)"


def _tracebacks(folder: Path) -> int:
    return sum(path.read_text(errors="replace").count("Traceback (most recent") for path in folder.iterdir())


def _up() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def kinds_named(text: str | None) -> Sequence[str] | None:
    """Return ``--faults`` as a list."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else None
