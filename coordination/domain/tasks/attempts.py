"""One execution of a task: what a worker was given, and how it ended. Pure records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, cast

from coordination.domain.jobs import Job, job_class, parse_job
from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.changed_files import ChangeSummary
from coordination.domain.jobs.provider_errors import ProviderLimit


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"  # with its evidence: exit status 0, or the function returned
    FAILED = "failed"  # the job said no
    TIMED_OUT = "timed_out"  # it took longer than its timeout, or stood still longer than its stall timeout
    CANCELED = "canceled"  # the task was canceled while it ran
    LOST = "lost"  # its worker died or was cut off: the lease ran out
    HANDED_BACK = "handed_back"  # its worker shut down and gave it back; nothing is charged
    DEFERRED = "deferred"  # the job asked to be tried later (exit status 75); nothing is charged


@dataclass(frozen=True, slots=True)
class Usage:
    """One model call as a job reports it. ``cost_usd`` None: unknown price, recorded and flagged, never zero.

    ``line``: the file and the number of the line by which the job reported it; then it is a record of its own, or with
    an ``id`` one with all that the attempt reports under that. ``mark``: by which the record of such a line is known
    again, whoever reads the file, where the call has no id.
    """

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    total_tokens: int | None = None
    cost_usd: Decimal | None = None
    id: str | None = None
    session_id: str | None = None
    at: datetime | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    line: tuple[str, int] | None = field(default=None, compare=False)
    mark: str | None = field(default=None, compare=False)


CONVERSATION = "conversation"
"""The key of what a task carries of an agent's conversation: agent, session, host, turn, and its usage so far."""


class Spender(Protocol):
    """Whose costs are recorded: an attempt, as far as its records name it."""

    @property
    def task_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def workspace_id(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def key(self) -> str: ...
    @property
    def agent(self) -> str | None: ...
    @property
    def agent_id(self) -> str | None: ...
    @property
    def work(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker holds after a claim: everything a runner needs, and the fence it must quote (``attempt``)."""

    task_id: str
    attempt: int
    workspace_id: str
    project_id: str
    project: str
    run_id: str
    session_id: str | None
    key: str
    title: str
    work: dict[str, Any]
    input: dict[str, Any]
    needs: dict[str, dict[str, Any]]
    agent: str | None
    timeout: timedelta | None
    stall_timeout: timedelta | None
    workdir: str | None
    python_path: tuple[str, ...]
    max_attempts: int
    failures: int
    deferrals: int
    backoff: dict[str, Any]
    repeatable: bool
    losses: int = 0
    slots: tuple[str, ...] = ()
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    budgeted: bool = False  # something was reserved for it
    agent_id: str | None = None
    authority: Mapping[str, Any] | None = None  # what it may do, lent by what caused it
    _job: Job | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def job_kind(self) -> type[Job]:
        """Return the kind of its job."""
        return job_class(self.work)

    @property
    def job(self) -> Job:
        """Return its job, parsed once; Refused for one that rendering has spoilt."""
        if self._job is None:
            object.__setattr__(self, "_job", parse_job(self.work))
        return cast("Job", self._job)


@dataclass(frozen=True, slots=True)
class Discovered:
    """A task that an attempt found to be needed. *task*: its fields as a plan's file says them (``key``, ``run``, …).

    It belongs to the same run and is noted as discovered from the task that found it. *first*: that task waits for it,
    blocked, and is started again when it has completed. What it ``needs`` are keys of the run, and of those found
    together with it. *role*: what the system made it for; what a job says that it found has none.
    *by_system*: the worker made it of what a plan says (a merge, a part of an assessment), not the job. *work*: the job
    of the attempt that reported it, as it ran; None: as it is stored. *delegated*: the job gives it to another agent.
    """

    task: Mapping[str, Any]
    first: bool = False
    role: Mapping[str, Any] = field(default_factory=dict)
    by_system: bool = False
    work: Mapping[str, Any] | None = None
    delegated: bool = False


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended: what a runner returns and what its worker writes. Raises ValueError for impossible ends.

    Only a deferred attempt can wait for something (``waits``): a completed one has no question and needs no money.

    ``log`` is the bounded text of stderr (and of prints, for Python jobs).
    ``retryable`` False: an error that no retry can fix (a function that does not exist).
    ``began`` False: the job itself was never started, so nothing of it can have happened.
    ``discovered``: tasks to add to the run; for those that come ``first`` the task waits.
    ``question``: the job stopped to ask; the task is blocked until somebody answers. ``escalated``: it is for the
    supervisor of the run, or a person, not for the agent that answers questions.
    ``short``: it was stopped because no money was left for it, and why; it goes on when there is more.
    ``forbidden``: the job as it would have run, if its project does not allow its model; it goes on when that changes.
    ``artifacts``: files that it made and that were kept; they count with the attempt.
    ``carry``: what the next attempt of the task is given as ``Claim.carried``, on top of what was carried before.
    ``not_before``: when another attempt may do better, of one that is deferred; ``limit``: whose limit it has met.
    ``effect``: what an agent changed where it worked, and which tools it was not allowed.
    """

    outcome: Outcome
    output: Any = None
    exit_code: int | None = None
    error: str | None = None
    log: str | None = None
    usage: tuple[Usage, ...] = ()
    retryable: bool = True
    began: bool = True
    discovered: tuple[Discovered, ...] = ()
    question: str | None = None
    short: str | None = None
    forbidden: Mapping[str, Any] | None = None
    carry: Mapping[str, Any] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    not_before: datetime | None = None
    limit: ProviderLimit | None = None
    effect: ChangeSummary | None = None
    escalated: bool = False

    def __post_init__(self) -> None:
        if self.outcome is not Outcome.DEFERRED and self.waits:
            raise ValueError(f"An attempt that is {self.outcome} waits for nothing: only a deferred one does")

    @property
    def waits(self) -> bool:
        """Whether the task is started again only when something is there: an answer, money, or other tasks' ends."""
        if self.question is None and self.short is None and self.forbidden is None and not self.discovered:
            return False  # as nearly all
        stops = (self.question, self.short, self.forbidden)
        return any(stop is not None for stop in stops) or any(task.first for task in self.discovered)

    def ending_as(self, outcome: Outcome, **changes: Any) -> AttemptEnd:
        """Return a copy that ended as *outcome*; one that waits and then fails is still deferred, and waits."""
        if self.waits and outcome is Outcome.FAILED:
            outcome = Outcome.DEFERRED
        if self.waits and outcome is not Outcome.DEFERRED:
            later = tuple(task for task in self.discovered if not task.first)
            changes = {"question": None, "short": None, "forbidden": None, "discovered": later} | changes
        return replace(self, outcome=outcome, **changes)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as stored."""

    task_id: str
    number: int
    worker: str | None
    host: str | None
    started_at: datetime
    heartbeat_at: datetime | None
    progress_at: datetime | None
    lease_until: datetime | None
    finished_at: datetime | None
    outcome: Outcome | None
    exit_code: int | None
    error: str | None
    output: Any
    log: str | None
    account: str | None = None
    conversation_id: str | None = None
    turn: int | None = None  # which attempt of that conversation it is, from 1
    details: Mapping[str, Any] | None = None  # a limit that it met, what it changed, tools that it was not allowed
