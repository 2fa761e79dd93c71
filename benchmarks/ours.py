"""Our side: a database, worker processes as shipped, and plans timed from handing over to the last end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from benchmarks import jobs
from benchmarks.measure import cpu_seconds
from benchmarks.places import ROOT
from coordination import BudgetCap, Plan, Run, Task, connect
from coordination.domain.plans.plans import ProjectRef
from coordination.domain.tasks.tasks import RunState
from coordination.settings import load_settings
from coordination.store.tables.tasks.runs import runs
from tests.support.processes import Process

STORES = ("sqlite", "postgresql")
SLOTS = 8
"""Slots of a worker process by default."""

_PATIENCE = 120.0
_LOOK = 0.005


class OurStack:
    """A database, and worker processes as shipped."""

    def __init__(self, kind: str, environment: dict[str, str]) -> None:
        self.kind = kind
        self.environment = environment
        self.co = connect(load_settings(environment))
        self.workers: list[Process] = []

    def start_worker(self, *options: str) -> Process:
        """One more worker process, ready."""
        return self.start_workers(1, *options)[0]

    def start_workers(self, count: int, *options: str) -> list[Process]:
        """So many more, ready; they start side by side."""
        altered = any(name.startswith("BENCH_") for name in self.environment)
        argv = [sys.executable, "-P", "-m", "benchmarks.altered" if altered else "workers", *options]
        env = {**self.environment, "PYTHONPATH": str(ROOT)}
        started = [Process(argv, env=env, announces=True) for _ in range(count)]
        self.workers += started
        return [process.wait_until_ready() for process in started]

    def submit(self, tasks: Sequence[Task], *, project: str = "bench", budget: BudgetCap | None = None) -> Run:
        """Hand a plan over."""
        where = ProjectRef(name=project, git_remote=f"https://example.org/{project}.git")
        return self.co.submit(Plan(tasks, project=where, budget=budget))

    def seconds(self, tasks: Sequence[Task], *, project: str = "bench", budget: BudgetCap | None = None) -> float:
        """From handing the plan over to the end of its last task, by the database's own note of that moment."""
        began = datetime.now(UTC)
        run = self.submit(tasks, project=project, budget=budget)
        return (self.end_of(run) - began).total_seconds()

    def seconds_of(self, plans: Sequence[tuple[str, Sequence[Task]]]) -> float:
        """The same for several plans, (project, tasks) each: from handing over the first to the last end of all."""
        began = datetime.now(UTC)
        submitted = [self.submit(tasks, project=project) for project, tasks in plans]
        ids = [run.id for run in submitted]
        deadline = time.monotonic() + _PATIENCE
        while True:  # one look for all, because looking at each would cost as much as submitting it
            with self.co.runtime.store.read() as tx:
                ends = tx.execute(select(runs.c.finished_at).where(runs.c.id.in_(ids))).scalars().all()
            if None not in ends:
                return (max(ends) - began).total_seconds()
            if time.monotonic() > deadline:
                raise SystemExit(f"{ends.count(None)} of {len(ids)} runs on {self.kind} have not ended")
            time.sleep(_LOOK)

    def end_of(self, run: Run) -> datetime:
        """When the run was completed; SystemExit when it was not."""
        state = run.wait(_PATIENCE)
        ended = run.record.finished_at
        if state is not RunState.COMPLETED or ended is None:
            raise SystemExit(
                f"The run on {self.kind} ended as {state}: {[t.error for t in run.tasks() if t.error][:3]}"
            )
        return ended

    def cpu_seconds(self) -> float:
        """CPU seconds that the worker processes and all they started have used so far."""
        return sum(cpu_seconds(worker.pid) for worker in self.workers)

    def close(self) -> None:
        """Stop the workers."""
        for process in self.workers:
            if process.exit_code is None:
                process.signal(signal.SIGTERM)
        for process in self.workers:
            process.wait(within=timedelta(seconds=60))
            process.close()
        self.co.close()


def no_op(key: str, *, needs: Sequence[str] = ()) -> Task:
    """A Python task that does nothing."""
    return Task(key, jobs.nothing, needs=needs)
