"""Stops of a workspace or a project, and the attempts that ran when one began."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from coordination.base.wording import excerpt
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.next_steps import Situation, join_steps, steps
from coordination.domain.tasks.tasks import BlockReason, TaskState

_LONGEST_ERROR = 200
_FAILED = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
_WORDS = {
    Outcome.CANCELED: "canceled",
    Outcome.LOST: "its worker was lost",
    Outcome.TIMED_OUT: "timed out meanwhile",
    Outcome.DEFERRED: "deferred meanwhile",
}


def _project_option(project: str | None) -> str:
    return "" if project is None else f" --project {shlex.quote(project)}"


@dataclass(frozen=True, slots=True)
class Stop:
    """An active stop. ``project``: the name of the stopped project; None: the whole workspace is stopped.

    ``in_flight``: the (task id, attempt) pairs that ran when it began; None: not recorded yet.
    """

    id: str
    project_id: str | None
    project: str | None
    since: datetime
    actor: str
    reason: str | None
    at_once: bool
    in_flight: tuple[tuple[str, int], ...] | None = None

    @property
    def command(self) -> str:
        """The command that ends it."""
        return f"coord start{_project_option(self.project)}"

    @property
    def again(self) -> str:
        """The command that shows its state again."""
        return f"coord stop{_project_option(self.project)}"

    def sentence(self) -> str:
        """Return what is stopped, since when and by whom, for people; without a full stop."""
        what = "The workspace" if self.project is None else f"The project {self.project}"
        why = f" ({self.reason})" if self.reason else ""
        return f"{what} is stopped since {self.since:%Y-%m-%d %H:%M:%S} UTC by {self.actor}{why}"


@dataclass(frozen=True, slots=True)
class StoppedAttempt:
    """An attempt that ran when a stop began, or that runs now.

    ``heard_at``: the last heartbeat of its worker; ``silent``: it is older than a lease. ``of_project``: the stop is
    its project's, not the whole workspace's.
    """

    task_id: str
    attempt: int
    project_id: str
    project: str
    run_id: str
    task: str
    worker: str | None
    host: str | None
    started_at: datetime
    progress_at: datetime | None
    heard_at: datetime | None
    silent: bool
    repeatable: bool
    outcome: Outcome | None
    began: bool
    finished_at: datetime | None
    error: str | None
    state: TaskState
    reasons: BlockReason
    cost_usd: Decimal
    unpriced_calls: int
    of_project: bool = False

    @property
    def ended(self) -> bool:
        """Whether its end is stored: then, as far as its worker can tell, none of its processes runs."""
        return self.outcome is not None

    @property
    def unknown(self) -> bool:
        """Whether it was interrupted, must not be repeated, and needs a person to decide its outcome."""
        return self.ended and BlockReason.OUTCOME_UNKNOWN in self.reasons and self.state is TaskState.BLOCKED

    @property
    def key(self) -> tuple[str, int]:
        """Its task's id and its number."""
        return self.task_id, self.attempt

    def words(self) -> str:
        """Return its state for people in a few words, and the command that helps, if any."""
        if self.outcome is None:
            return self._unanswered()
        if self.unknown:
            ways = join_steps(steps(Situation.OUTCOME_UNKNOWN, task=self.task))
            return f"outcome unknown: it was interrupted, and must not be repeated; {ways}"
        if self.outcome is Outcome.HANDED_BACK:
            when = "ended" if self.began else "ended before its job began"
            return f"{when}, and handed back: coord start{self._option} continues it"
        if self.outcome is Outcome.CANCELED and self.state is not TaskState.CANCELED:
            return f"ended: coord start{self._option} continues it"
        why = f": {excerpt(self.error, _LONGEST_ERROR)}" if self.error and self.outcome in _FAILED else ""
        return _WORDS.get(self.outcome, f"{self.outcome} meanwhile") + why

    def _unanswered(self) -> str:
        if self.heard_at is None:
            return "did not answer: its worker is no longer stored"
        if self.silent:
            return f"did not answer: its worker has sent no heartbeat since {self.heard_at:%H:%M:%S} UTC"
        again = f"coord stop{self._option}"
        return f"has not ended yet, and its worker is alive: check again with {again}, or kill it with {again} --now"

    @property
    def _option(self) -> str:
        """The option that names the stopped project; without one, commands mean the whole workspace."""
        return _project_option(self.project if self.of_project else None)


@dataclass(frozen=True, slots=True)
class StopResult:
    """The result of a stop. ``new``: this call began it.

    ``claiming``: how many transactions that began before it have not ended, and might still start something.
    """

    stop: Stop
    new: bool
    attempts: Sequence[StoppedAttempt]
    claiming: int = 0

    @property
    def silent(self) -> bool:
        """Whether nothing runs any more: every attempt has ended, and none can begin."""
        return not self.claiming and all(attempt.ended for attempt in self.attempts)


@dataclass(frozen=True, slots=True)
class StartResult:
    """The result of a start: the stop that it ended, the count of queued tasks, and the stops that remain."""

    ended: Stop | None
    queued: int
    still: Sequence[Stop]
