"""Stalled runs: why a run cannot continue, which command helps, and whether only a person can help."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.base.wording import plural
from coordination.domain.tasks.explanations import Obstacle, describe_missing_worker
from coordination.domain.tasks.tasks import RunRecord, RunState, TaskState

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.api.runs import Run

_EVERY = 2.0
_WORKERS_BACK_WITHIN = 15.0
"""Seconds within which a worker that restarts is back."""


class StalledRun:
    """Checks periodically whether a run has stalled."""

    def __init__(self, run: Run, *, needs_worker: bool = False) -> None:
        """*needs_worker*: no command starts a worker for the run, so one must exist."""
        self.obstacles: list[Obstacle] = []
        self._run = run
        self._needs_worker = needs_worker
        self._printed: str | None = None
        self._next_check = 0.0
        self._since: float | None = None

    def words(self, record: RunRecord) -> str | None:
        """Return why the run has stalled and which command helps, or None while it has not."""
        from coordination.api.explanations import obstacles_of

        if record.counts.get(TaskState.RUNNING) or record.state is not RunState.OPEN:
            self._set_obstacles([])
        elif monotonic() >= self._next_check:
            self._next_check = monotonic() + _EVERY
            try:
                self._set_obstacles(obstacles_of(self._run.runtime, record, needs_worker=self._needs_worker))
            except DatabaseUnavailable:  # the command that follows the run waits for the database
                self._set_obstacles([])
        return self._sentences() if self.obstacles else None

    def news(self, record: RunRecord) -> str | None:
        """Return ``words`` when they have changed, else None."""
        words, printed = self.words(record), self._printed
        self._printed = words
        return words if words != printed else None

    @property
    def is_final(self) -> bool:
        """Return whether waiting is futile: obstacles have lasted for two checks, and there is no terminal."""
        if self._since is None or is_attended() or not all(obstacle.lasts for obstacle in self.obstacles):
            return False
        patience = _WORKERS_BACK_WITHIN if any(obstacle.kind == "no_worker" for obstacle in self.obstacles) else _EVERY
        return monotonic() - self._since >= patience

    def as_json(self) -> list[dict[str, Any]]:
        """Return the obstacles for --json."""
        return [obstacle.to_json() for obstacle in self.obstacles]

    def _set_obstacles(self, obstacles: list[Obstacle]) -> None:
        if [obstacle.kind for obstacle in obstacles] != [obstacle.kind for obstacle in self.obstacles]:
            self._since = monotonic() if obstacles else None
        self.obstacles = obstacles

    def _sentences(self) -> str:
        missing = {obstacle.missing for obstacle in self.obstacles}
        if None not in missing and len(missing) == 1:
            waits = plural(self.obstacles[0].tasks, "task waits", "tasks wait")
            head = f"{waits} for {missing.pop()}, and nothing else of this run can continue:"
        elif not any(obstacle.lasts for obstacle in self.obstacles):
            head = "This run waits for the start time of a task:"
        else:
            head = "This run cannot continue until a person acts:"
        lines = [f"  {line}" for obstacle in self.obstacles for line in obstacle.sentence.split("\n")]
        return "\n".join([head, *lines, self._after()])

    def _after(self) -> str:
        if is_attended() or not all(obstacle.lasts for obstacle in self.obstacles):
            return f"This command waits and continues with the run; after Ctrl-C: coord resume {self._run.id}"
        return f"There is no terminal, so this command ends. Continue later with: coord resume {self._run.id}"


def is_attended() -> bool:
    """Return whether this command has a terminal."""
    return any(stream is not None and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stdout))


def missing_workers(co: Coordination) -> str | None:
    """Return a warning when the workspace has no worker, or only a temporary one, else None."""
    from coordination.store.queries.fleet import workers

    runtime = co.runtime
    settings = runtime.settings
    if not runtime.read(workers.list_live_for, within=settings.lease_ttl):
        return describe_missing_worker(settings.workspace, "coord up" if settings.embedded else "coord worker")
    if not settings.embedded:
        return None
    from coordination.stack.home import Home
    from coordination.stack.users import StackUsers

    home = Home(settings.home)
    record = home.read() if home.is_owned() else None
    if record is None or not record.counts_users or StackUsers(home).is_kept(record.owner):
        return None
    users = StackUsers(home).present()
    if any(user.command == "coord up" for user in users):
        return None
    until = f" with {users[0].sentence()}" if len(users) == 1 else " with the last command that uses it"
    return f"the running stack ends{until}; keep it up with: coord up --detach"
