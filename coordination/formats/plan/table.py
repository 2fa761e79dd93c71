"""The table of all plan fields, from which the reader, the writer, the JSON Schema and docs/plan.md are derived.

Checks beyond a value's type are in ``domain/plans/graph`` and the records of the domain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coordination.base.fields import (
    DURATION,
    FLAG,
    MAPPING,
    MOMENT,
    SIZE,
    TEXT,
    TEXTS,
    Field,
    Table,
    ValueType,
    by_name,
    choice,
    number,
    record,
    schema_of,
    text,
    texts,
    whole,
    write_fields,
)
from coordination.domain.jobs.artifacts import MOST_PATTERNS
from coordination.domain.jobs.changed_files import CHANGES
from coordination.domain.jobs.resource_limits import FEWEST_FILES, Limits
from coordination.domain.plans.graph import MAX_ATTEMPTS, MAX_FACTOR, MAX_PRIORITY, MAX_SLOTS
from coordination.domain.plans.plans import MAX_TASKS, MAX_TITLE, Concurrency, Defaults, ProjectRef
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import HIGHEST_MAX_STARTS, OnDependencyFailure
from coordination.formats.plan import values

VERSION = 1

_VERSION = ValueType(lambda version, _place: version, {"const": VERSION})
_SLOTS = whole(1, MAX_SLOTS)
_TITLE = replace(text(longest=MAX_TITLE), load=lambda value, place: TEXT.load(value, place).rstrip("\n"))
_BACKOFF = record(
    Backoff,
    (Field("initial", DURATION), Field("factor", number(1, MAX_FACTOR)), Field("max", DURATION, attribute="maximum")),
)
_LIMITS = record(
    Limits, (Field("memory", SIZE), Field("cpu", DURATION), Field("files", whole(FEWEST_FILES)), Field("output", SIZE))
)

RULES: Table = (
    Field("timeout", DURATION, "how long it may take; default 4h"),
    Field("stall_timeout", DURATION, "how long it may print nothing"),
    Field("max_attempts", whole(1, MAX_ATTEMPTS), "the number of attempts; default 1"),
    Field(
        "max_starts",
        whole(1, HIGHEST_MAX_STARTS),
        "how often an agent or a chat may start, with any outcome, before a person must confirm; default 20, "
        "or `max_attempts` if that is higher ([concepts](concepts.md#leases-and-fencing))",
    ),
    Field(
        "backoff",
        _BACKOFF,
        "the waits between attempts (`initial`, `factor`, `max`); another `max` than 10 minutes bounds the wait for a "
        "[limit](agents.md#provider-errors) too",
    ),
    Field(
        "on_dependency_failure",
        choice(OnDependencyFailure),
        "what happens when a task in `needs` does not succeed: `cancel` (default), `block` until somebody retries it, "
        "or `run` anyway",
    ),
    Field("workdir", TEXT, "the folder it runs in"),
    Field("agent", values.NAME, "the agent or person whose work it is"),
    Field(
        "limits",
        _LIMITS,
        "resource limits: `memory: 2GiB`, `cpu: 10m`, `files: 1024`, `output: 100MB` ([below](#limits))",
    ),
    Field(
        "checkout",
        values.CHECKOUT,
        "`folder` (default), or `git-worktree`: a worktree of its own, merged to the run's branch "
        "([workspaces](workspaces.md)). Or `{kind: git-worktree, base: main, keep_failed: 3d}`; what makes it "
        "[ready to work](workspaces.md#preparing-a-worktree)",
    ),
)
"""The fields that the plan's defaults and its tasks have in common."""

DEFAULTS: Table = (
    *RULES,
    Field("account", TEXT, "an account of the worker's machine for agents and chats, such as `claude@work`"),
)

TASK: Table = (
    Field("key", values.KEY, "the unique name of the task in the plan", required=True),
    Field("title", _TITLE, "a description for people"),
    Field("run", values.RUN, "the job: one of the [kinds](#kinds-of-jobs), with its fields", required=True),
    Field("needs", values.NEEDS, "keys of the tasks that must complete first"),
    Field("input", MAPPING, "input values for the job"),
    Field("parent", values.KEY, "the task it is part of"),
    Field("priority", whole(-MAX_PRIORITY, MAX_PRIORITY), "tasks with a higher number start first; default 0"),
    *RULES,
    Field("repeatable", FLAG, "`false`: it is never started again after its worker was lost; a person decides"),
    Field(
        "concurrency_key",
        values.NAME,
        "tasks with the same key run one at a time, or as many as `concurrency.keys` allows",
    ),
    Field("not_before", MOMENT, "a moment with its offset, such as `2026-05-01T06:00:00+02:00`"),
    Field("due", MOMENT, "likewise: when it should be done"),
    Field("criteria", TEXTS, "when it is done, for its agent ([agents](agents.md#what-an-agent-is-told))"),
    Field("context", FLAG, "`false` sends an agent its prompt as it is"),
    Field(
        "variants",
        values.VARIANTS,
        "the number of variants, or a list of the differences of each; the first to pass its gates wins "
        "([agents](agents.md#variants))",
    ),
    Field("supervised", FLAG, "`false` excludes it from the plan's review loop"),
    Field(
        "outputs",
        texts(shortest=1, most=MOST_PATTERNS),
        'files that the job has to leave in its folder: paths, patterns (`"build/*.whl"`, `"**/*.xml"`), folders '
        "([below](#artifacts))",
    ),
    Field(
        "gates",
        values.GATES,
        "commands that must pass before it counts as completed: "
        '`["pytest -q", {run: make, timeout: 30m, name: build}]`',
    ),
    Field(
        "estimate",
        values.ESTIMATE,
        "the expected usage, until a similar job has run in the project: any of `{usd: 0.25, tokens: 20000, "
        "duration: 10m}` ([simulation](simulation.md)). This amount is reserved in [budgets](budgets.md) before the "
        "job starts",
    ),
    Field("budget", values.BUDGET, "what all its attempts together may spend; the same keys as in the plan"),
    Field("metadata", MAPPING, "arbitrary data"),
    Field(
        "expects",
        text(words=(CHANGES,)),
        "`changes`: an agent that changes nothing in its folder has failed ([agents](agents.md#what-an-agent-changed))",
    ),
)

PLAN: Table = (
    Field("version", _VERSION, "1", required=True),
    Field(
        "project",
        record(ProjectRef, (Field("name", values.NAME), Field("git_remote", TEXT), Field("path", TEXT))),
        "`name`, `git_remote`, `path`. Default: the git repository of the current folder",
    ),
    Field("name", values.NAME, "a name for the run"),
    Field("session", values.NAME, "a name for the session that its costs belong to"),
    Field("defaults", record(Defaults, DEFAULTS), "defaults for all tasks"),
    Field(
        "budget",
        values.BUDGET,
        "what the run may spend: `usd`, `tokens`, `starts` (of agents and chats), `max_unpriced_calls`, `on_exceed` "
        "(`block`, `warn`, `downgrade`), `warn_at` (percent), `downgrade_to` (a model); see [budgets](budgets.md)",
    ),
    Field(
        "concurrency",
        record(
            Concurrency, (Field("project", _SLOTS), Field("agents", by_name(_SLOTS)), Field("keys", by_name(_SLOTS)))
        ),
        "how many tasks may run at once: `project: 4`, `agents: {NAME: 2}`, `keys: {deploy: 1}`",
    ),
    Field(
        "supervision",
        values.SUPERVISION,
        "`assess` and `analyze`: who looks at each agent's task before and after ([agents](agents.md#review-loop))",
    ),
    Field(
        "questions",
        values.SUPERVISOR,
        "the agent that answers questions of tasks ([agents](agents.md#questions-that-an-agent-answers))",
    ),
    Field(
        "gates",
        values.GATES,
        "commands that must pass before an agent's task, or a task with a worktree, counts as completed "
        "([gates](workspaces.md#gates))",
    ),
    Field("python_path", texts(shortest=1), "folders for Python jobs, relative to the plan's folder"),
    Field(
        "tasks",
        ValueType(
            lambda tasks, _place: tasks,
            {"type": "array", "minItems": 1, "maxItems": MAX_TASKS, "items": schema_of(TASK)},
            lambda tasks: [write_fields(task, TASK) for task in tasks],
        ),
        "the tasks",
        required=True,
    ),
)


def plan_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of plan files, which cannot check cycles, unknown tasks or templates."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plan",
        "description": "A graph of jobs in a project.",
        **schema_of(PLAN),
    }
