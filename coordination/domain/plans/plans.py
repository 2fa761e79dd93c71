"""A plan as its author writes it: a graph of tasks with their rules. Pure; formats/plan reads it from YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from coordination.domain.jobs import Job
from coordination.domain.jobs.checkouts import FOLDER, Checkout, Gate
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits
from coordination.domain.money.budgets import WARN_AT
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import DependencyKind, OnDependencyFailure

MAX_TITLE = 500
MAX_KEY = 200
MAX_TASKS = 200_000

DEFAULT_MAX_ATTEMPTS = 1
DEFAULT_TIMEOUT = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class Dependency:
    """One edge towards another task of the plan, by key."""

    key: str
    kind: DependencyKind = DependencyKind.BLOCKS


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a plan. ``None`` means: as the plan's defaults say.

    ``run`` is a Shell, a PythonCall, an AgentCall, a ChatCall, a mapping such as ``{"shell": "ruff check ."}``, or an
    importable function.
    ``limits``: the most that it may use; what they leave open is as the plan's defaults say.
    ``outputs``: paths and patterns of files, from its folder, that it has to leave; they are kept as its artifacts.
    ``needs`` names the tasks (keys, or Dependency objects for other kinds of edges) that must complete first.
    Durations are timedeltas; ``priority``: higher runs earlier, default 0. ``criteria``: what its agent is told of
    when it is done. ``variants``: how many race, or what differs in each from ``run``; the first past its gates
    wins. ``context``: False for an agent that is to get its prompt as it is. ``supervised``: False leaves it out of
    the plan's supervision. ``role`` is the system's own: what it made a part of a task for.
    ``checkout``: ``"folder"``, ``"git-worktree"``, or a Checkout. ``gates``: commands,
    or Gates, that must pass before it counts as completed. ``estimate``: what it is expected to use (``usd``,
    ``tokens``, ``duration``), for as long as no job like it has run. ``max_starts``: how often an agent or a chat may
    start, whatever it ends as, before a person must let it go on; default: 20, or ``max_attempts`` if that is more.
    ``expects``: ``"changes"`` for an agent that has failed when it changed nothing in its folder.
    """

    key: str
    run: Job | Mapping[str, Any] | Callable[..., Any]
    title: str | None = None
    needs: Sequence[str | Dependency] = ()
    input: Mapping[str, Any] = field(default_factory=dict)
    agent: str | None = None
    parent: str | None = None
    priority: int = 0
    max_attempts: int | None = None
    backoff: Backoff | None = None
    timeout: timedelta | None = None
    stall_timeout: timedelta | None = None
    repeatable: bool = True
    on_dependency_failure: OnDependencyFailure | None = None
    concurrency_key: str | None = None
    not_before: datetime | None = None
    due: datetime | None = None
    workdir: str | None = None
    criteria: Sequence[str] = ()
    context: bool = True
    variants: int | Sequence[Mapping[str, Any]] = ()
    supervised: bool = True
    limits: Limits = NO_LIMITS
    outputs: Sequence[str] = ()
    checkout: Checkout | Mapping[str, Any] | str | None = None
    gates: Sequence[Gate | Mapping[str, Any] | str] = ()
    budget: BudgetCap | None = None
    estimate: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    role: Mapping[str, Any] = field(default_factory=dict)
    max_starts: int | None = None
    expects: str | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for every task of the plan that says nothing else.

    ``account``: of agents and chats that name none; ``claude@work`` of jobs for claude alone.
    """

    timeout: timedelta = DEFAULT_TIMEOUT
    stall_timeout: timedelta | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    backoff: Backoff = field(default_factory=Backoff)
    on_dependency_failure: OnDependencyFailure = OnDependencyFailure.CANCEL
    workdir: str | None = None
    agent: str | None = None
    limits: Limits = NO_LIMITS
    checkout: Checkout | Mapping[str, Any] | str = FOLDER
    max_starts: int | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectRef:
    """Which project a plan belongs to. Empty: the git repository that is stood in."""

    name: str | None = None
    git_remote: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many tasks may run at once: in the whole project, per agent, per named key. Missing: no limit.

    A task's ``concurrency_key`` that ``keys`` does not name is limited to 1.
    """

    project: int | None = None
    agents: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BudgetCap:
    """A cap on what a plan's run, or all attempts of a task, may spend: in US dollars, tokens, starts, or several.

    ``on_exceed``: ``block`` (tasks wait until it is raised), ``warn`` (it is told, nothing more), or ``downgrade``
    (from *warn_at* on jobs use the model *downgrade_to*; when it is reached, they wait).
    ``warn_at``: percent of the cap. ``max_unpriced_calls``: calls of models whose price is unknown; none where there
    is a cap in dollars and nothing else is said, because what is unknown is not zero. ``starts``: how often agents and
    chats may start, whatever they end as.
    """

    usd: Decimal | None = None
    on_exceed: str = "block"
    tokens: int | None = None
    max_unpriced_calls: int | None = None
    warn_at: int | None = WARN_AT
    downgrade_to: str | None = None
    starts: int | None = None

    def said(self) -> dict[str, Any]:
        """What it says, as a plan's file does."""
        body = {
            "usd": self.usd,
            "tokens": self.tokens,
            "starts": self.starts,
            "max_unpriced_calls": self.max_unpriced_calls,
            "on_exceed": self.on_exceed,
            "warn_at": self.warn_at,
            "downgrade_to": self.downgrade_to,
        }
        return {name: value for name, value in body.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Supervision:
    """Who looks at each agent's task before it is done (``assess``) and after (``analyze``): jobs without a prompt."""

    assess: Mapping[str, Any] | None = None
    analyze: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph of tasks in a project. ``python_path``: folders put before sys.path for its Python jobs.

    ``gates``: what must pass before an agent's task, or one with a worktree, counts as completed. ``questions``: the
    agent that answers what tasks ask, by name or as a job without its prompt.
    """

    tasks: Sequence[Task]
    name: str | None = None
    project: ProjectRef = field(default_factory=ProjectRef)
    defaults: Defaults = field(default_factory=Defaults)
    concurrency: Concurrency = field(default_factory=Concurrency)
    budget: BudgetCap | None = None
    supervision: Supervision | None = None
    questions: Mapping[str, Any] | str | None = None
    gates: Sequence[Gate | Mapping[str, Any] | str] = ()
    python_path: Sequence[str] = ()
    session: str | None = None  # main (default: the ongoing one), isolated (one of its own), or a session's id
    source: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
