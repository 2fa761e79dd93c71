"""The people of a run: one thread that submits plans, so that there is always work, and makes a person's decisions."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

import sqlalchemy.exc

from coordination.api.connection import Coordination
from coordination.base.errors import CoordinationError
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from tests.chaos import plans
from tests.chaos.checker import Promises
from tests.chaos.stack import Stack

_OPEN = (
    "SELECT t.id, t.state, t.reasons FROM tasks t JOIN runs r ON r.id = t.run_id "
    "WHERE r.finished_at IS NULL AND t.state IN ('blocked', 'queued', 'running')"
)
_OUTCOME_UNKNOWN = 256
_TROUBLE = (CoordinationError, sqlalchemy.exc.SQLAlchemyError)


class People:
    """Submits and decides, in a thread; ``promises`` holds what the store acknowledged."""

    def __init__(self, stack: Stack, choice: random.Random, *, backlog: int, projects: int = 5) -> None:
        self._stack, self._choice, self._backlog = stack, choice, backlog
        folder = stack.folder / "projects"
        folder.mkdir()
        self._projects = plans.projects_in(folder, choice, projects)
        limits = {project.name: project.limit for project in self._projects if project.limit is not None}
        self.promises = Promises(
            runs={}, limits=limits, keys={project.name: dict(project.keys) for project in self._projects}
        )
        self._runs: dict[str, int] = {}
        self.refused = 0
        self.decisions = 0
        self.accident: Exception | None = None
        self._feeding = threading.Event()
        self._feeding.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="people", daemon=True)
        settings = load_settings(stack.environment)
        self.co = Coordination(open_runtime(settings, migrate=True))

    def start(self) -> None:
        """Begin to submit and decide."""
        self._thread.start()

    def stop_feeding(self) -> None:
        """Submit nothing more."""
        self._feeding.clear()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.co.close()

    def acknowledged(self) -> Promises:
        """Return what the store acknowledged."""
        return Promises(runs=dict(self._runs), limits=self.promises.limits, keys=self.promises.keys)

    def open_tasks(self) -> list[tuple[str, str, int]]:
        """Return (id, state, reasons) of open tasks in open runs."""
        with self.co.runtime.store.read() as tx:
            return [(str(row[0]), row[1], row[2]) for row in tx.exec_driver_sql(_OPEN)]

    def last_event(self) -> int:
        """Return the number of the newest row of the log."""
        with self.co.runtime.store.read() as tx:
            return int(tx.exec_driver_sql("SELECT coalesce(max(seq), 0) FROM events").scalar_one())

    def retry_failed(self) -> int:
        """Retry all tasks that failed or were canceled for a failure, and return how many that reopened."""
        return sum(self.co.run(run_id).retry() for run_id in self._runs)

    def _live(self) -> None:
        try:
            self._submit_and_decide()
        except Exception as error:  # noqa: BLE001 - the run reports any error
            self.accident = error

    def _submit_and_decide(self) -> None:
        while not self._ended.wait(0.3):
            with suppress(*_TROUBLE):
                waiting = self.open_tasks()
                for task, state, reasons in waiting:
                    if state == "blocked" and reasons & _OUTCOME_UNKNOWN:
                        self._decide(task)
                missing = self._backlog - len(waiting)
                while missing > 0 and self._feeding.is_set() and not self._ended.is_set():
                    missing -= self._submit()

    def _decide(self, task: str) -> None:
        with suppress(*_TROUBLE):
            self.co.task(task).retry()
            self.decisions += 1

    def _submit(self) -> int:
        plan = plans.plan(
            self._choice.choice(self._projects), self._choice, self._stack.evidence, size=self._choice.randint(3, 120)
        )
        try:
            run = self.co.submit(plan)
        except _TROUBLE:
            self.refused += 1
            time.sleep(0.2)
            return 0
        self._runs[run.id] = len(plan.tasks)
        return len(plan.tasks)
