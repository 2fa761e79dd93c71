"""A run of the Python API: wait for it, follow its events, read its outputs and cost, cancel and retry it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from coordination.api.budgets import budget_of_run
from coordination.api.names import find_task
from coordination.api.tasks import TaskHandle
from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable, NotFound
from coordination.domain.money.budget_status import BudgetStatus
from coordination.domain.tasks.events import Event
from coordination.domain.tasks.tasks import RunRecord as RunRecord
from coordination.domain.tasks.tasks import RunState
from coordination.flows.tasks.cancel_work import cancel_run
from coordination.flows.tasks.retry_tasks import retry_run
from coordination.runtime import Runtime
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import attempts, events, runs, tasks

_FIRST_POLL, _LAST_POLL = 0.01, 0.25
_OUTAGE = 30.0  # seconds to wait for an unreachable database


@dataclass(frozen=True, slots=True)
class Run:
    """A handle of a run; every property reads the store."""

    runtime: Runtime = field(repr=False)  # its settings include passwords
    id: str

    @property
    def record(self) -> RunRecord:
        """Return the run as it is now."""
        record = self.runtime.read(runs.get, self.id)
        if record is None:
            raise NotFound(f"There is no run {self.id}")
        return record

    @property
    def state(self) -> RunState:
        """Return open, stuck, completed, failed or canceled, which follows from the run's tasks."""
        return self.record.state

    @property
    def cost(self) -> Decimal:
        """Return the US dollars spent so far, for calls with a known price."""
        return self.record.cost_usd

    @property
    def budget(self) -> BudgetStatus | None:
        """Return the status of the run's own budget: spent, reserved and left; None when it has none."""
        return budget_of_run(self.runtime, self.id)

    def wait(self, timeout: float | None = None) -> RunState:
        """Wait until the run has ended, or waits for a person, and return its state.

        *timeout* is in seconds. Raises TimeoutError when it expires first.
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
        """Yield the run's events from the beginning or after a cursor; *follow*: also new ones, until the run ends."""
        pause = _FIRST_POLL
        while True:
            ended = self.state is not RunState.OPEN
            page = self._events_after(after)
            yield from page
            if page:
                after, pause = page[-1].cursor, _FIRST_POLL
                continue
            if ended or not follow:
                return
            time.sleep(pause)
            pause = min(pause * 1.5, _LAST_POLL)

    def _events_after(self, cursor: str) -> list[Event]:
        return self.runtime.read(events.tail, run_id=self.id, after=cursor)

    def tasks(self) -> list[TaskHandle]:
        """Return all tasks in the order of the plan."""
        return [TaskHandle(self.runtime, record) for record in self.runtime.read(tasks.of_run, self.id)]

    def task(self, key: str) -> TaskHandle:
        """Return a task by its key."""
        return TaskHandle(self.runtime, find_task(self.runtime, key, run_id=self.id))

    def outputs(self) -> dict[str, Any]:
        """Return the outputs of completed tasks, by task id."""
        return self.runtime.read(attempts.outputs_of_run, self.id)

    def running(self) -> Sequence[Mapping[str, Any]]:
        """Return the running attempts: key, title, number, worker, host, started_at, now."""
        return [dict(row) for row in self.runtime.read(attempts.list_running, self.id)]

    def cancel(self, why: str = "canceled by its owner") -> int:
        """Cancel every open task, and return how many; running jobs are stopped at once."""
        runtime = self.runtime
        canceled = runtime.transact(cancel_run, self.id, actor=runtime.actor, why=why)
        runtime.stop(canceled.project_id, canceled.tasks)
        return len(canceled.tasks)

    def retry(self) -> int:
        """Retry failed and canceled tasks, and return how many were reopened."""
        runtime = self.runtime
        lifetime = runtime.settings.supervisor_lifetime
        reopened = runtime.transact(retry_run, self.id, actor=runtime.actor, lifetime=lifetime)
        runtime.wake_project(self.record.project_id)
        return len(reopened)

    def resume(self) -> None:
        """Continue an open run after an interruption: ensure that it has a live supervisor, and trigger a tick."""
        runtime, record = self.runtime, self.record
        if record.finished_at is None:
            runtime.transact(
                supervisors.ensure,
                record.project_id,
                session_key=f"supervisor:resume:{self.id}",
                lifetime=runtime.settings.supervisor_lifetime,
            )
        runtime.wake_project(record.project_id)
