"""The Python API: submit plans to a running stack, wait, stream events, read outputs and costs, cancel.

co = connect()
run = co.submit(Plan([Task("lint", {"shell": "ruff check ."})]))
run.wait(timeout=60)
print(run.task("lint").output, run.cost)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection

from coordination.assigning import Assignable, create_in
from coordination.base import gc_tuning
from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable, NotFound
from coordination.budgeting import Budgeted, Budgets
from coordination.conversing import Conversing
from coordination.costs import Accounting
from coordination.domain.issues import Issue
from coordination.domain.plans.plans import Plan, Task
from coordination.domain.projects.projects import Project
from coordination.domain.tasks.attempts import Attempt
from coordination.domain.tasks.events import Event
from coordination.domain.tasks.runs import RunRecord, RunState
from coordination.domain.tasks.tasks import TaskRecord, TaskState, state_named
from coordination.flows.plans.submit_plan import SubmittedRun, submit_plan
from coordination.flows.projects.pause_project import hold_project, resume_project
from coordination.flows.tasks.cancel_work import cancel_run, cancel_task
from coordination.flows.tasks.force_tasks import ForceResult, force_task
from coordination.flows.tasks.retry_tasks import retry_run, retry_task
from coordination.foreseen import Foreseen
from coordination.location import origin_of
from coordination.lookups import find_run, find_task
from coordination.produced import Produced
from coordination.runtime import Runtime, open_runtime
from coordination.services.projects import projects as project_service
from coordination.services.tasks import concurrency_limits as limit_service
from coordination.settings import Settings, load_settings
from coordination.staffing import Staffed
from coordination.stopping import Stopping
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.money import costs
from coordination.store.queries.tasks import attempts, events, runs, tasks

_FIRST_POLL, _LAST_POLL = 0.01, 0.25
_OUTAGE = 30.0  # seconds without the database that a wait rides out


def connect(settings: Settings | None = None, *, migrate: bool = False) -> Coordination:
    """Connect to the stack that the environment names (COORD_DATABASE_URL, COORD_REDIS_URL, or the one on COORD_HOME).

    ``migrate`` creates or updates the schema first. Raises SettingsError, DatabaseUnavailable or SchemaMismatch.
    """
    return Coordination(open_runtime(settings or load_settings(), migrate=migrate))


class Coordination(Accounting, Foreseen, Staffed, Stopping):
    """A connection: close it, or use it as a context manager; handles work until then. ``budgets``: see Budgets."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.budgets = Budgets(self)

    def submit(
        self, plan: Plan, *, metadata: Mapping[str, Any] | None = None, issues: Sequence[Issue] | None = None
    ) -> Run:
        """Store *plan* as a new run and wake a worker; the handle is returned at once.

        The project is the plan's, or the git repository of the current folder. *issues* become the project's, linked
        to the tasks that work them off, in the same transaction. Raises PlanError or Refused with nothing stored.
        """
        runtime = self.runtime
        origin = origin_of(plan, actor=runtime.actor, metadata=metadata or {})

        def store(tx: Connection) -> SubmittedRun:
            with gc_tuning.paused():  # not while it waits for the database
                return submit_plan(
                    tx,
                    runtime.workspace_id,
                    plan,
                    origin,
                    lifetime=runtime.settings.supervisor_lifetime,
                    issues=issues,
                )

        submitted = runtime.store.transact(store, patience=timedelta(seconds=30))
        self.runtime.nudge(submitted.project_id)
        return Run(self, submitted.run_id)

    def create(self, task: Task, *, run: Run | None = None) -> TaskHandle:
        """Store a single task without a plan, in a *run* that exists or one of its own, and wake a worker.

        A run that has ended goes on with it. Raises NotFound, PlanError or Refused with nothing stored.
        """
        if run is None:
            return self.submit(Plan([task], name=task.key)).task(task.key)
        create_in(self.runtime, run.id, task)
        return run.task(task.key)

    def run(self, name: str, *, project: str | None = None) -> Run:
        """The run with that id, or that unique part of an id or name (the newest) in a project; NotFound or Refused.

        *project*: which one; None: that of the current folder, and where that is in none, whichever alone has such a
        run. A part of an id has at least four letters.
        """
        project_id = self.project(project).id if project else None
        return Run(self, find_run(self.runtime, name, project_id=project_id))

    def runs(self, *, project: str | None = None, limit: int = 50) -> list[RunRecord]:
        """The newest runs, of one project or of all."""
        project_id = self.project(project).id if project else None
        with self.runtime.store.read() as tx:
            return runs.listed(tx, self.runtime.workspace_id, project_id=project_id, limit=limit)

    def task(self, name: str, *, project: str | None = None) -> TaskHandle:
        """The task with that id, or that unique part of an id or key (of the newest run) in a project: see ``run``."""
        project_id = self.project(project).id if project else None
        return TaskHandle(self, find_task(self.runtime, name, project_id=project_id))

    def project(self, name: str) -> Project:
        """The project of that name, identity, alias or id."""
        with self.runtime.store.read() as tx:
            return project_service.find(tx, self.runtime.workspace_id, name)

    def hold(self, project: str) -> None:
        """Start nothing more of the project; what runs goes on."""
        project_id = self.project(project).id
        self.runtime.store.transact(lambda tx: hold_project(tx, self.runtime.workspace_id, project_id))

    def resume_project(self, project: str) -> int:
        """Let a held project go on; how many tasks are queued again."""
        runtime, project_id = self.runtime, self.project(project).id
        freed = runtime.store.transact(
            lambda tx: resume_project(tx, runtime.workspace_id, project_id, actor=runtime.actor)
        )
        runtime.nudge(project_id)
        return freed

    def set_limits(self, project: str, caps: Mapping[str, int | None]) -> list[dict[str, Any]]:
        """Say how many tasks run at once (``project``, ``agent:NAME``, ``key:NAME``; None: any); all limits then."""
        project_id = self.project(project).id
        found = self.runtime.store.transact(
            lambda tx: limit_service.set_limits(tx, self.runtime.workspace_id, project_id, caps)
        )
        self.runtime.nudge(project_id)
        return found

    def wake(self, run: RunRecord) -> None:
        """See to it that an open run has a live supervisor, and ask for a look at it now."""
        runtime = self.runtime
        if run.finished_at is None:
            runtime.store.transact(
                lambda tx: supervisors.ensure(
                    tx,
                    runtime.workspace_id,
                    run.project_id,
                    session_key=f"supervisor:resume:{run.id}",
                    lifetime=runtime.settings.supervisor_lifetime,
                )
            )
        self.runtime.nudge(run.project_id)

    def close(self) -> None:
        """Give back every connection."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Run(Budgeted):
    """A handle on one run; every property asks the store."""

    co: Coordination
    id: str

    @property
    def record(self) -> RunRecord:
        """The run as it is now."""
        with self.co.runtime.store.read() as tx:
            found = runs.get(tx, self.co.runtime.workspace_id, self.id)
        if found is None:
            raise NotFound(f"There is no run {self.id}")
        return found

    @property
    def state(self) -> RunState:
        """open, stuck, completed, failed or canceled: what follows from the run's tasks."""
        return self.record.state

    @property
    def cost(self) -> Decimal:
        """US dollars spent so far, of calls with a known price."""
        return self.record.cost_usd

    def wait(self, timeout: float | None = None) -> RunState:
        """Block until the run has ended, or can only go on by a person's decision; its state then.

        *timeout* is in seconds. Raises TimeoutError when it is over first.
        """
        deadline = None if timeout is None else monotonic() + timeout
        pause = _FIRST_POLL
        away_since: float | None = None
        while True:
            try:
                state = self.state
            except DatabaseUnavailable:
                away_since = away_since or monotonic()
                if monotonic() - away_since > _OUTAGE or (deadline is not None and monotonic() > deadline):
                    raise
                state = RunState.OPEN
            else:
                away_since = None
            if state is not RunState.OPEN:
                return state
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError(f"The run {self.id} is still {state} after {timeout:g} s")
            time.sleep(pause if deadline is None else max(0.0, min(pause, deadline - monotonic())))
            pause = min(pause * 1.5, _LAST_POLL)

    def events(self, *, after: str = events.START, follow: bool = True) -> Iterator[Event]:
        """The run's story from the beginning (or after a cursor), and on as it happens, until the run has ended."""
        pause = _FIRST_POLL
        while True:
            ended = self.state is not RunState.OPEN
            found = self._events_after(after)
            yield from found
            if found:
                after, pause = found[-1].cursor, _FIRST_POLL
                continue
            if ended or not follow:
                return
            time.sleep(pause)
            pause = min(pause * 1.5, _LAST_POLL)

    def _events_after(self, cursor: str) -> list[Event]:
        with self.co.runtime.store.read() as tx:
            return events.tail(tx, self.co.runtime.workspace_id, run_id=self.id, after=cursor)

    def tasks(self) -> list[TaskHandle]:
        """All tasks in the order of the plan."""
        with self.co.runtime.store.read() as tx:
            found = tasks.of_run(tx, self.co.runtime.workspace_id, self.id)
        return [TaskHandle(self.co, record) for record in found]

    def task(self, key: str) -> TaskHandle:
        """One task by its key."""
        return TaskHandle(self.co, find_task(self.co.runtime, key, run_id=self.id))

    def outputs(self) -> dict[str, Any]:
        """What the completed tasks produced, by task id: all at once."""
        with self.co.runtime.store.read() as tx:
            return attempts.outputs_of_run(tx, self.co.runtime.workspace_id, self.id)

    def running(self) -> Sequence[Mapping[str, Any]]:
        """What runs now: key, title, number of the attempt, worker, host, started_at, now."""
        with self.co.runtime.store.read() as tx:
            return [dict(row) for row in attempts.running_in_run(tx, self.co.runtime.workspace_id, self.id)]

    def cancel(self, why: str = "canceled by its owner") -> int:
        """Cancel every open task; running jobs are told at once. How many were canceled."""
        runtime = self.co.runtime
        canceled = runtime.store.transact(
            lambda tx: cancel_run(tx, runtime.workspace_id, self.id, actor=runtime.actor, why=why)
        )
        runtime.stop(canceled.project_id, canceled.tasks)
        return len(canceled.tasks)

    def retry(self) -> int:
        """Retry what failed or was canceled; how many tasks were reopened."""
        runtime = self.co.runtime
        life = runtime.settings.supervisor_lifetime
        reopened = runtime.store.transact(
            lambda tx: retry_run(tx, runtime.workspace_id, self.id, actor=runtime.actor, lifetime=life)
        )
        runtime.nudge(self.record.project_id)
        return len(reopened)

    def resume(self) -> None:
        """Ask for a look at an open run now: after an interruption, or when nothing seems to move."""
        self.co.wake(self.record)


@dataclass(frozen=True, slots=True)
class TaskHandle(Produced, Conversing, Assignable):
    """A task as it was when asked for; ``refresh()`` asks again."""

    co: Coordination
    record: TaskRecord

    @property
    def id(self) -> str:
        """The task's id."""
        return self.record.id

    @property
    def key(self) -> str:
        """The task's key in its plan."""
        return self.record.key

    @property
    def state(self) -> TaskState:
        """blocked, queued, running, completed, failed or canceled."""
        return self.record.state

    @property
    def error(self) -> str | None:
        """Why its last attempt, or the task itself, did not succeed."""
        return self.record.error

    @property
    def output(self) -> Any:
        """What the completed attempt produced: stdout of a shell job, the return value of a Python job; else None."""
        if self.record.state is not TaskState.COMPLETED:
            return None
        found = self.attempts()
        return found[-1].output if found else None

    @property
    def cost(self) -> Decimal:
        """US dollars of all its attempts, of calls with a known price."""
        with self.co.runtime.store.read() as tx:
            return costs.total(tx, self.co.runtime.workspace_id, task_id=self.id)[0]

    def refresh(self) -> TaskHandle:
        """The task as it is now."""
        with self.co.runtime.store.read() as tx:
            found = tasks.get(tx, self.co.runtime.workspace_id, self.id)
        if found is None:
            raise NotFound(f"There is no task {self.id}")
        return replace(self, record=found)

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        with self.co.runtime.store.read() as tx:
            return attempts.of_task(tx, self.co.runtime.workspace_id, self.id)

    def events(self) -> list[Event]:
        """The task's own story so far."""
        with self.co.runtime.store.read() as tx:
            return events.tail(tx, self.co.runtime.workspace_id, task_id=self.id, limit=10_000)

    def cancel(self, why: str = "canceled by its owner") -> bool:
        """Cancel the task and what depends on it as the plan says; whether it was open."""
        runtime = self.co.runtime
        canceled = runtime.store.transact(
            lambda tx: cancel_task(tx, runtime.workspace_id, self.id, actor=runtime.actor, why=why)
        )
        runtime.stop(canceled.project_id, canceled.tasks)
        return bool(canceled.tasks)

    def retry(self) -> None:
        """Retry a failed or canceled task, and what was canceled because of it. Raises IllegalMove for others."""
        runtime = self.co.runtime
        life = runtime.settings.supervisor_lifetime
        runtime.store.transact(
            lambda tx: retry_task(tx, runtime.workspace_id, self.id, actor=runtime.actor, lifetime=life)
        )
        runtime.nudge(self.record.project_id)

    def force(self, state: TaskState | str, *, reason: str, output: Any = None) -> ForceResult:
        """Set the task's state, whatever it is: queued, completed (with this *output*), failed or canceled.

        What still runs of it is fenced off and told to stop; *reason* is kept in the task's story. Raises Refused or
        IllegalMove with nothing changed.
        """
        runtime = self.co.runtime
        target = state_named(state)
        forced = runtime.store.transact(
            lambda tx: force_task(
                tx,
                runtime.workspace_id,
                self.id,
                target,
                actor=runtime.actor,
                reason=reason,
                output=output,
                lifetime=runtime.settings.supervisor_lifetime,
            )
        )
        runtime.stop(forced.project_id, forced.fenced)
        return forced
