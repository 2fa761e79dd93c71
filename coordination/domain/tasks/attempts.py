"""Attempts: the claim that a worker gets, the end that it reports, and the stored record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, cast

from coordination.domain.jobs import Job, parse_job
from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.changed_files import ChangeSummary
from coordination.domain.jobs.provider_errors import ProviderLimit
from coordination.domain.jobs.registry import job_class


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"  # exit status 0, or the function returned
    FAILED = "failed"  # the job reported failure
    TIMED_OUT = "timed_out"  # it exceeded its timeout or its stall timeout
    CANCELED = "canceled"  # the task was canceled while it ran
    LOST = "lost"  # its worker died or was cut off, and the lease expired
    HANDED_BACK = "handed_back"  # its worker shut down and returned it; not counted as a failure
    DEFERRED = "deferred"  # the job asked for a later attempt (exit status 75); not counted as a failure


@dataclass(frozen=True, slots=True)
class Usage:
    """One model call as a job reports it. ``cost_usd`` None: the price is unknown, which is recorded and never zero.

    ``line``: the report file and the line number. Each line is one record, or with an ``id``, all lines of the attempt
    with that id are one. ``mark`` identifies the record of a line without an id, whichever process reads the file.
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


CONVERSATION_KEY = "conversation"
"""The key in ``carried`` of an agent's conversation: agent, session, host, turn, and usage so far."""


class AttemptIdentity(Protocol):
    """The fields that identify an attempt in cost records and events."""

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
    """A claimed task: everything that a runner needs, and the fence (``attempt``) that its writes must match."""

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
    carried_over: Mapping[str, Any] = field(default_factory=dict)
    budgeted: bool = False  # money is reserved for it
    agent_id: str | None = None
    authority: Mapping[str, Any] | None = None  # the limits of what it may do; None: no limits
    _job: Job | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def job_kind(self) -> type[Job]:
        """Return the class of its job."""
        return job_class(self.work)

    @property
    def job(self) -> Job:
        """Return its job, parsed once. Raises Refused if rendering made it invalid."""
        if self._job is None:
            object.__setattr__(self, "_job", parse_job(self.work))
        return cast("Job", self._job)


@dataclass(frozen=True, slots=True)
class DiscoveredTask:
    """A task that an attempt adds to its run. ``task``: its fields as in a plan file (``key``, ``run``, …).

    ``blocks_finder``: the reporting task is blocked until this one completes, and then starts again. ``needs`` are keys
    of the run or of tasks reported together with it. ``role``: its purpose, if the system created it. ``by_system``:
    the worker derived it from the plan (a merge, a part of an assessment). ``work``: the rendered job of the attempt
    that reported it; None: the stored one. ``delegated``: the job gives it to another agent.
    """

    task: Mapping[str, Any]
    blocks_finder: bool = False
    role: Mapping[str, Any] = field(default_factory=dict)
    by_system: bool = False
    work: Mapping[str, Any] | None = None
    delegated: bool = False


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended: a runner returns it, the worker writes it. Raises ValueError for impossible ends.

    Only a deferred attempt can wait for something (``waits``): a completed one has no question and needs no money.

    ``log``: the bounded text of stderr (and of prints, for Python jobs).
    ``retryable`` False: no retry can fix the error (a function that does not exist).
    ``job_started`` False: the job itself was never started, so it had no effects.
    ``discovered``: tasks to add to the run; the task waits for those marked ``blocks_finder``.
    ``question``: the job stopped to ask; the task is blocked until it is answered. ``escalated``: the question is for
    the run's supervising agent or a person, not for the answering agent.
    ``budget_shortage``: why a budget stopped the job; the task continues when there is money.
    ``forbidden_work``: the rendered job whose model the project does not allow; it continues when the rule changes.
    ``artifacts``: the files that were stored for this attempt.
    ``carry_over``: values that are merged into ``Claim.carried_over`` of the next attempt.
    ``not_before``: the earliest useful next attempt after a deferral; ``limit``: the provider limit that was hit.
    ``effect``: the files that an agent changed, and the tools that it was denied.
    """

    outcome: Outcome
    output: Any = None
    exit_code: int | None = None
    error: str | None = None
    log: str | None = None
    usage: tuple[Usage, ...] = ()
    retryable: bool = True
    job_started: bool = True
    discovered: tuple[DiscoveredTask, ...] = ()
    question: str | None = None
    budget_shortage: str | None = None
    forbidden_work: Mapping[str, Any] | None = None
    carry_over: Mapping[str, Any] = field(default_factory=dict)
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
        """Whether the next attempt needs something first: an answer, money, a policy change or other tasks."""
        needed = (self.question, self.budget_shortage, self.forbidden_work)
        return needed != (None, None, None) or any(task.blocks_finder for task in self.discovered)

    def ending_as(self, outcome: Outcome, **changes: Any) -> AttemptEnd:
        """Return a copy with another outcome. A waiting end that would fail stays deferred and keeps waiting."""
        if self.waits and outcome is Outcome.FAILED:
            outcome = Outcome.DEFERRED
        if self.waits and outcome is not Outcome.DEFERRED:
            later = tuple(task for task in self.discovered if not task.blocks_finder)
            changes = {"question": None, "budget_shortage": None, "forbidden_work": None, "discovered": later} | changes
        return replace(self, outcome=outcome, **changes)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A stored attempt."""

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
    turn: int | None = None  # the number of the attempt in that conversation, from 1
    details: Mapping[str, Any] | None = None  # a provider limit, changed files, denied tools
