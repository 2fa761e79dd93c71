"""Stops of a workspace or a project, and what is known of the attempts that ran when one began. Pure records."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from coordination.base.wording import excerpt
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.next_steps import Situation, sentence, steps
from coordination.domain.tasks.tasks import BlockReason, TaskState

_LONGEST_ERROR = 200
_FAILED = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
_WORDS = {
    Outcome.CANCELED: "canceled",
    Outcome.LOST: "its worker was lost, and it was ended",
    Outcome.TIMED_OUT: "timed out meanwhile",
    Outcome.DEFERRED: "put off meanwhile",
}


def _of(project: str | None) -> str:
    return "" if project is None else f" --project {shlex.quote(project)}"


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop that holds. ``project``: the name of the one that it holds; None: the whole workspace.

    ``in_flight``: the (task id, attempt) pairs that ran when it began; None: nobody has looked yet.
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
        return f"coord start{_of(self.project)}"

    @property
    def again(self) -> str:
        """The command that looks again at what it stops."""
        return f"coord stop{_of(self.project)}"

    def sentence(self) -> str:
        """What is stopped, since when and by whom, for people; without a full stop."""
        what = "The workspace" if self.project is None else f"The project {self.project}"
        why = f" ({self.reason})" if self.reason else ""
        return f"{what} is stopped since {self.since:%Y-%m-%d %H:%M:%S} UTC by {self.actor}{why}"


@dataclass(frozen=True, slots=True)
class StoppedAttempt:
    """An attempt that ran when a stop began, or that runs now, and what is known of it.

    ``heard_at``: the last sign of life of its worker; ``silent``: for longer than a lease.
    ``of_project``: the stop is its project's, not the whole workspace's.
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
        """Whether its end is written: then none of its processes runs any more, as far as its worker can tell."""
        return self.outcome is not None

    @property
    def unknown(self) -> bool:
        """Whether it was ended in the middle, must not be repeated, and a person says what became of it."""
        return self.ended and BlockReason.OUTCOME_UNKNOWN in self.reasons and self.state is TaskState.BLOCKED

    @property
    def key(self) -> tuple[str, int]:
        """Its task's id, and its number."""
        return self.task_id, self.attempt

    def words(self) -> str:
        """What became of it, for people: a few words, and the command that helps where one does."""
        if self.outcome is None:
            return self._unanswered()
        if self.unknown:
            ways = sentence(steps(Situation.OUTCOME_UNKNOWN, task=self.task))
            return f"outcome unknown: it was ended in the middle, and must not be repeated; {ways}"
        if self.outcome is Outcome.HANDED_BACK:
            when = "ended" if self.began else "ended before its job began"
            return f"{when}, and handed back: coord start{self._whose} goes on with it"
        if self.outcome is Outcome.CANCELED and self.state is not TaskState.CANCELED:
            return f"ended: coord start{self._whose} goes on with it"
        why = f": {excerpt(self.error, _LONGEST_ERROR)}" if self.error and self.outcome in _FAILED else ""
        return _WORDS.get(self.outcome, f"{self.outcome} meanwhile") + why

    def _unanswered(self) -> str:
        if self.heard_at is None:
            return "did not answer: its worker is not known any more"
        if self.silent:
            return f"did not answer: nothing was heard of its worker since {self.heard_at:%H:%M:%S} UTC"
        again = f"coord stop{self._whose}"
        return f"has not ended yet, and its worker lives: look again with {again}, or kill it with {again} --now"

    @property
    def _whose(self) -> str:
        """What the commands of its stop name, or they would be about the whole workspace."""
        return _of(self.project if self.of_project else None)


@dataclass(frozen=True, slots=True)
class StopResult:
    """What a stop came to. ``new``: it began with this call. ``claiming``: how many transactions that had begun before
    it, and might still start something, had not ended.
    """

    stop: Stop
    new: bool
    attempts: Sequence[StoppedAttempt]
    claiming: int = 0

    @property
    def silent(self) -> bool:
        """Whether nothing runs any more: every attempt has ended, and none can begin."""
        return not self.claiming and all(one.ended for one in self.attempts)


@dataclass(frozen=True, slots=True)
class StartResult:
    """What a start came to: the stop that it ended, how many tasks are queued again, and which stops still hold."""

    ended: Stop | None
    queued: int
    still: Sequence[Stop]
