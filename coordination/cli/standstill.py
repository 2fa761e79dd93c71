"""A run that cannot go on: what to say, which command helps, and whether anything but a person can change it."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError, DatabaseUnavailable
from coordination.base.wording import plural
from coordination.domain.money.budgets import BudgetPeriod
from coordination.domain.tasks.next_steps import Situation, sentence, steps
from coordination.domain.tasks.runs import RunState
from coordination.domain.tasks.tasks import TaskState

if TYPE_CHECKING:
    from coordination.client import Coordination, Run
    from coordination.domain.tasks.runs import RunRecord
    from coordination.store.reports.tasks.standstill import StandstillCause

DEFAULT = "default"  # the workspace that is served where none is named
_EVERY = 2.0
_MOST_BUDGETS = 3
_WORTH_SAYING = timedelta(seconds=10)
_WORKERS_BACK_WITHIN = 15.0
"""Seconds that a worker which is started anew may be away."""

_OF_PERSONS = {
    "question": (" asked a question", Situation.QUESTION),
    "outcome_unknown": (" may have been done, and must not be repeated", Situation.OUTCOME_UNKNOWN),
    "limit": (" was tried as often as it may be", Situation.LIMIT),
    "approval": (" waits for an approval", None),
    "policy": (" is held by a policy", None),
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that a run waits for: a sentence with the command that helps. ``lasts``: until a person acts."""

    kind: str
    tasks: int
    keys: tuple[str, ...]
    sentence: str
    lasts: bool = True


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
        return [asdict(one) for one in self.obstacles]

    def _found(self, obstacles: list[Obstacle]) -> None:
        if [one.kind for one in obstacles] != [one.kind for one in self.obstacles]:
            self._since = monotonic() if obstacles else None
        self.obstacles = obstacles

    def _look(self, record: RunRecord) -> list[Obstacle]:
        from coordination.store.reports.tasks.standstill import holds_of_run, next_start

        runtime = self._run.co.runtime
        with runtime.store.read() as tx:
            holds = holds_of_run(
                tx,
                runtime.workspace_id,
                record.project_id,
                record.id,
                live_within=runtime.settings.lease_ttl,
                needs_worker=self._needs_worker,
            )
            later = None if holds else next_start(tx, runtime.workspace_id, record.id)
        if later is not None and later[1] - later[2] >= _WORTH_SAYING:
            return [_later(later[0], later[1])]
        found = []
        for hold in holds:
            of_it = self._budgets(hold) if hold.kind == "budget" else [_obstacle(hold)]
            if not of_it:
                return []  # the money is there
            found += of_it
        return found

    def _budgets(self, hold: StandstillCause) -> list[Obstacle]:
        try:
            held = self._run.co.budgets.held(self._run.id)
        except DatabaseUnavailable:
            raise
        except CoordinationError:
            return []
        by_budget = {lack.budget.id: lack for lack in held}
        return [
            Obstacle(
                "budget",
                hold.tasks,
                hold.keys,
                f"{lack.sentence()}. {lack.hint()}",
                lasts=not lack.passing and lack.budget.period is BudgetPeriod.TOTAL,
            )
            for lack in list(by_budget.values())[:_MOST_BUDGETS]
        ]

    def _sentences(self) -> str:
        if all(one.kind == "budget" for one in self.obstacles):
            number = self.obstacles[0].tasks
            head = f"{plural(number, 'task waits', 'tasks wait')} for a budget, and nothing else of this run can go on:"
        elif all(one.kind == "time" for one in self.obstacles):
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


def _obstacle(hold: StandstillCause) -> Obstacle:
    if hold.kind == "stopped":
        stop, command = hold.keys
        words = f"{stop}; let it go on with: {command}"
    elif hold.kind == "on_hold":
        words = f"its project {hold.keys[0]} is on hold; let it go on with: coord projects activate {hold.keys[0]}"
    elif hold.kind == "no_worker":
        words = no_worker(hold.keys[0])
    else:
        what, situation = _OF_PERSONS.get(hold.kind, (f" waits: {hold.kind}", None))
        lines = [
            f"{key}{what}; "
            + (f"why: coord explain {key}" if situation is None else sentence(steps(situation, task=key)))
            for key in hold.keys
        ]
        more = hold.tasks - len(hold.keys)
        words = "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])
    return Obstacle(hold.kind, hold.tasks, hold.keys, words)


def _later(key: str, when: datetime) -> Obstacle:
    words = f"{key} is the first, at {when.astimezone():%Y-%m-%d %H:%M:%S}"
    return Obstacle("time", 1, (key,), f"{words}; why: coord explain {key}", lasts=False)


def no_worker(workspace: str, start: str = "coord worker") -> str:
    """That nobody runs jobs of the workspace, and the command that starts somebody."""
    named = start if workspace == DEFAULT else f"COORD_WORKSPACE={workspace} {start}"
    return f"no living worker runs jobs of the workspace {workspace}; start one with: {named}"


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
