"""A run that cannot go on: what to say, which command helps, and whether anything but a person can change it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.base.wording import plural
from coordination.domain.tasks.explanations import Obstacle, no_worker
from coordination.domain.tasks.runs import RunState
from coordination.domain.tasks.tasks import TaskState

if TYPE_CHECKING:
    from coordination.client import Coordination, Run
    from coordination.domain.tasks.runs import RunRecord

_EVERY = 2.0
_WORKERS_BACK_WITHIN = 15.0
"""Seconds that a worker which is started anew may be away."""


class Standstill:
    """Looks whether a run stands still; seldom, because it mostly does not."""

    def __init__(self, run: Run, *, needs_worker: bool = False) -> None:
        """*needs_worker*: nobody starts a worker for it, so that one has to be there."""
        self.obstacles: list[Obstacle] = []
        self._run = run
        self._needs_worker = needs_worker
        self._told: str | None = None
        self._next_look = 0.0
        self._since: float | None = None

    def words(self, record: RunRecord) -> str | None:
        """Why nothing goes on, and what helps; None while something does."""
        if record.counts.get(TaskState.RUNNING) or record.state is not RunState.OPEN:
            self._found([])
        elif monotonic() >= self._next_look:
            self._next_look = monotonic() + _EVERY
            try:
                self._found(self._look(record))
            except DatabaseUnavailable:  # whoever follows the run rides that out
                self._found([])
        return self._sentences() if self.obstacles else None

    def news(self, record: RunRecord) -> str | None:
        """The same, where it was not said yet: once for each time that it stands still."""
        words, told = self.words(record), self._told
        self._told = words
        return words if words != told else None

    @property
    def is_final(self) -> bool:
        """Whether two looks found nothing that goes on by itself, and nobody sits at a terminal: then waiting ends."""
        if self._since is None or is_attended() or not all(one.lasts for one in self.obstacles):
            return False
        patience = _WORKERS_BACK_WITHIN if any(one.kind == "no_worker" for one in self.obstacles) else _EVERY
        return monotonic() - self._since >= patience

    def as_json(self) -> list[dict[str, Any]]:
        """What the run waits for, as printed by --json."""
        return [one.to_json() for one in self.obstacles]

    def _found(self, obstacles: list[Obstacle]) -> None:
        if [one.kind for one in obstacles] != [one.kind for one in self.obstacles]:
            self._since = monotonic() if obstacles else None
        self.obstacles = obstacles

    def _look(self, record: RunRecord) -> list[Obstacle]:
        from coordination.budgeting import current_estimator
        from coordination.flows.tasks.find_obstacles import find_obstacles

        runtime = self._run.co.runtime
        with runtime.store.read() as tx:
            return find_obstacles(
                tx,
                runtime.workspace_id,
                record.project_id,
                record.id,
                live_within=runtime.settings.lease_ttl,
                needs_worker=self._needs_worker,
                estimator=current_estimator(tx, runtime.workspace_id),
            )

    def _sentences(self) -> str:
        missing = {one.missing for one in self.obstacles}
        if None not in missing and len(missing) == 1:
            waits = plural(self.obstacles[0].tasks, "task waits", "tasks wait")
            head = f"{waits} for {missing.pop()}, and nothing else of this run can go on:"
        elif not any(one.lasts for one in self.obstacles):
            head = "Nothing of this run goes on before its time:"
        else:
            head = "Nothing of this run goes on until a person acts:"
        lines = [f"  {line}" for one in self.obstacles for line in one.sentence.split("\n")]
        return "\n".join([head, *lines, self._after()])

    def _after(self) -> str:
        if is_attended() or not all(one.lasts for one in self.obstacles):
            return f"This command waits, and goes on with the run; after Ctrl-C: coord resume {self._run.id}"
        return f"There is no terminal, so this command ends. Then go on with: coord resume {self._run.id}"


def is_attended() -> bool:
    """Whether a person sits at a terminal of this command."""
    return any(stream is not None and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stdout))


def who_will_do_it(co: Coordination) -> str | None:
    """What a person should know of the workers after a submission: that there is none, or only for a while."""
    from coordination.store.queries.fleet import serving

    runtime = co.runtime
    settings = runtime.settings
    with runtime.store.read() as tx:
        live = serving.live_for(tx, runtime.workspace_id, within=settings.lease_ttl)
    if not live:
        return no_worker(settings.workspace, "coord up" if settings.embedded else "coord worker")
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
    return f"the stack that runs ends{until}; keep it up with: coord up --detach"
