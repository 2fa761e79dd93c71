"""Records of a plan: a graph of tasks with their rules, which formats/plan reads from YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from coordination.domain.jobs import Job
from coordination.domain.jobs.checkouts import FOLDER, Checkout, Gate, parse_checkout
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
    """A dependency on another task, by key."""

    key: str
    kind: DependencyKind = DependencyKind.BLOCKS


def upstream_keys(needs: Iterable[str | Dependency]) -> list[str]:
    """Return the keys in *needs* for which a task waits."""
    return [
        need if isinstance(need, str) else need.key for need in needs if isinstance(need, str) or need.kind.holds_back
    ]


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a plan. ``None`` means the plan's default.

    ``run``: a Job such as Shell, a mapping such as ``{"shell": "ruff check ."}``, or an importable function.
    ``needs``: keys of the tasks that must complete first, or Dependency objects for other kinds of dependencies.
    ``priority``: tasks with a higher number start first. ``max_starts``: how often an agent or a chat may start, with
    any outcome, before a person must confirm; default: 20, or ``max_attempts`` if that is higher.
    ``checkout``: ``"folder"``, ``"git-worktree"``, or a Checkout. ``gates``: commands, or Gates, that must pass before
    it counts as completed. ``outputs``: paths and patterns of files that it must leave in its folder as artifacts.
    ``limits``: resource limits; the plan's defaults apply to those that are not set. ``estimate``: the expected usage
    (``usd``, ``tokens``, ``duration``), until a similar job has run. ``criteria``: acceptance criteria for its agent.
    ``context``: False sends the agent its prompt without context. ``expects``: ``"changes"``: an agent that changes
    nothing in its folder fails. ``variants``: the number of variants, or the differences of each from ``run``; the
    first to pass its gates wins. ``supervised``: False excludes it from the review loop. ``role``: set by the system.
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
    """Defaults for all tasks of the plan.

    ``account``: of agents and chats without one; an account such as ``claude@work`` applies to jobs of claude only.
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
    """The project of a plan. Empty: the git repository of the current folder."""

    name: str | None = None
    git_remote: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many tasks may run at once: in the project, per agent, per concurrency key. Missing: no limit.

    Concurrency keys that are not in ``keys`` are limited to 1.
    """

    project: int | None = None
    agents: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BudgetCap:
    """A cap on what a run, or all attempts of a task, may spend: in US dollars, tokens, starts, or several of these.

    ``on_exceed``: ``block`` (tasks wait until it is raised), ``warn`` (only warns), or ``downgrade`` (jobs use model
    *downgrade_to* from *warn_at*, and wait at the cap). ``warn_at``: percent of the cap. ``max_unpriced_calls``: calls
    of models whose price is unknown; default 0 with a cap in dollars, because an unknown price is not zero. ``starts``:
    how often agents and chats may start, with any outcome.
    """

    usd: Decimal | None = None
    on_exceed: str = "block"
    tokens: int | None = None
    max_unpriced_calls: int | None = None
    warn_at: int | None = WARN_AT
    downgrade_to: str | None = None
    starts: int | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields that are set, by their names in plan files."""
        return {spec.name: value for spec in fields(self) if (value := getattr(self, spec.name)) is not None}


@dataclass(frozen=True, slots=True)
class Supervision:
    """The agents of the review loop, before (``assess``) and after the work (``analyze``): jobs without a prompt."""

    assess: Mapping[str, Any] | None = None
    analyze: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph of tasks in a project. ``python_path``: folders before sys.path for its Python jobs.

    ``gates``: commands that must pass before an agent's task, or a task with a worktree, counts as completed.
    ``questions``: the agent that answers questions of tasks, by name or as a job without a prompt.
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
    session: str | None = None  # main (default: the ongoing one), isolated (a new one), or a session's id
    source: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)

    def checkout_of(self, task: Task) -> Checkout:
        """Return the checkout of a task."""
        checkout = self.defaults.checkout if task.checkout is None else task.checkout
        return FOLDER if checkout is FOLDER else parse_checkout(checkout)
