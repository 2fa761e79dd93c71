"""The plan file as a JSON Schema (2020-12), for editors. Says what the reader says, as far as a schema can."""

from __future__ import annotations

from typing import Any

from coordination.base import durations, sizes
from coordination.domain.jobs import chat, checkouts, preparation, work
from coordination.domain.jobs.artifacts import MOST_PATTERNS
from coordination.domain.jobs.changed_files import CHANGES
from coordination.domain.jobs.resource_limits import FEWEST_FILES
from coordination.domain.money import estimates
from coordination.domain.money.caps import CAPS, KEYS
from coordination.domain.plans.graph import MAX_ATTEMPTS, MAX_FACTOR, MAX_PRIORITY, MAX_SLOTS
from coordination.domain.plans.plan_expansion import MOST_VARIANTS
from coordination.domain.plans.plans import MAX_KEY, MAX_TASKS, MAX_TITLE
from coordination.domain.tasks.task_limits import MOST_STARTS
from coordination.domain.tasks.tasks import DependencyKind, OnDependencyFailure
from coordination.formats.plan import reader
from coordination.formats.plan.budgets import budget_schema
from coordination.formats.plan.fields import MOMENT_PATTERN
from coordination.formats.plan.supervision import SUPERVISION_KEYS

_Schema = dict[str, Any]


def plan_schema() -> _Schema:
    """The schema of version 1. Cycles, unknown tasks and templates need the reader and domain/graph to be found."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plan",
        "description": "A graph of jobs in a project.",
        **_object(
            reader.PLAN_KEYS,
            required=("version", "tasks"),
            version={"const": reader.VERSION},
            project=_optional(_object(reader.PROJECT_KEYS, name=_NAME, git_remote=_TEXT, path=_TEXT)),
            name=_NAME,
            session=_NAME,
            defaults=_optional(_object(reader.DEFAULTS_KEYS, account=_ACCOUNT, **_rules())),
            budget=_budget("the whole run"),
            concurrency=_optional(
                _object(reader.CONCURRENCY_KEYS, project=_SLOTS, agents=_by_name(_SLOTS), keys=_by_name(_SLOTS))
            ),
            questions=_supervisor(),
            supervision=_optional(_object(SUPERVISION_KEYS, assess=_supervisor(), analyze=_supervisor())),
            gates=_gates(),
            python_path=_optional({"type": "array", "items": _SOME_TEXT, "description": "From the file's own folder."}),
            tasks={"type": "array", "minItems": 1, "maxItems": MAX_TASKS, "items": _task()},
        ),
    }


def _budget(whose: str) -> _Schema:
    caps = [{"required": [name]} for name in CAPS]
    return _optional({**_object(KEYS, **budget_schema(whose)), "anyOf": caps})


def _task() -> _Schema:
    return _object(
        reader.TASK_KEYS,
        required=("key", "run"),
        key=_KEY,
        title={"type": ["string", "null"], "minLength": 1, "maxLength": MAX_TITLE},
        run={"oneOf": [_run("shell"), _run("python", args=_optional({"type": "object"})), _agent(), _chat()]},
        needs={"anyOf": [_KEY, _need(), {"type": "array", "items": {"anyOf": [_KEY, _need()]}}, {"type": "null"}]},
        input=_optional({"type": "object"}),
        parent=_optional(_KEY),
        priority={"type": ["integer", "null"], "minimum": -MAX_PRIORITY, "maximum": MAX_PRIORITY},
        repeatable={"type": ["boolean", "null"]},
        concurrency_key=_NAME,
        not_before=_MOMENT,
        due=_MOMENT,
        criteria={**_texts(), "description": "When it is done, for its agent."},
        context={"type": ["boolean", "null"], "description": "false: its agent gets the prompt as it is."},
        variants={
            "anyOf": [
                {"type": "integer", "minimum": 2, "maximum": MOST_VARIANTS},
                {"type": "array", "items": {"type": "object"}, "minItems": 2, "maxItems": MOST_VARIANTS},
                {"type": "null"},
            ],
            "description": "How many race, or what differs in each; the first past its gates wins.",
        },
        supervised={"type": ["boolean", "null"]},
        outputs=_optional({"type": "array", "items": _SOME_TEXT, "maxItems": MOST_PATTERNS}),
        gates=_gates(),
        budget=_budget("all attempts of the task"),
        estimate=_estimate(),
        metadata=_optional({"type": "object"}),
        expects={"enum": [CHANGES, None], "description": "changes: its agent fails when it changes nothing."},
        **_rules(),
    )


def _rules() -> _Schema:
    """What the plan's defaults and each task have in common."""
    return {
        "timeout": _DURATION,
        "stall_timeout": _DURATION,
        "max_attempts": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_ATTEMPTS},
        "max_starts": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MOST_STARTS,
            "description": "How often an agent or a chat may start before a person must let it go on.",
        },
        "backoff": _optional(
            _object(
                reader.BACKOFF_KEYS,
                initial=_DURATION,
                factor={"type": ["number", "null"], "minimum": 1, "maximum": MAX_FACTOR},
                max=_DURATION,
            )
        ),
        "on_dependency_failure": {"enum": [*OnDependencyFailure, None]},
        "workdir": _TEXT,
        "agent": _NAME,
        "limits": _optional(
            _object(
                reader.LIMITS_KEYS,
                memory=_SIZE,
                cpu=_DURATION,
                files={"type": ["integer", "null"], "minimum": FEWEST_FILES},
                output=_SIZE,
            )
        ),
        "checkout": _checkout(),
        "workspace": {**_checkout(), "deprecated": True, "description": "The old name of checkout."},
    }


def _texts() -> _Schema:
    return _optional({"type": "array", "items": {"type": "string"}})


def _supervisor() -> _Schema:
    return {"anyOf": [_SOME_TEXT, {"type": "object"}, {"type": "null"}]}


def _run(kind: str, **more: _Schema) -> _Schema:
    first = {kind: {"type": "string", "minLength": 1}}
    env = _by_name({"type": "string"})
    return _object(work.KEYS[kind], required=(kind,), **first, env=env, **more)


def _agent() -> _Schema:
    texts = _texts()
    places: dict[str, Any] = {name: _TEXT for name in work.READS if name != "format"}
    return _object(
        work.KEYS["agent"],
        required=("agent", "prompt"),
        agent={**_SOME_TEXT, "description": f"{', '.join(work.AGENTS)}; or a name, role:…, label:…, default."},
        prompt=_SOME_TEXT,
        model=_TEXT,
        args=texts,
        secrets={**texts, "description": "Variables of the worker's environment, by name."},
        command=texts,
        resume=texts,
        env=_by_name({"type": "string"}),
        tools=_optional({"type": "array", "items": {"const": chat.OURS}}),
        reads=_optional(_object(work.READS, format={"enum": [*work.FORMATS, None]}, **places)),
        account=_ACCOUNT,
    )


def _chat() -> _Schema:
    texts = _optional({"type": "array", "items": {"type": "string"}})
    names = {**texts, "description": "Variables of the worker's environment, by name."}
    env = _by_name({"type": "string"})
    server = _object(chat.TOOL_KEYS, command=texts, url=_TEXT, env=env, secrets=names)
    return _object(
        work.KEYS["chat"],
        required=("chat", "prompt"),
        chat={**_SOME_TEXT, "description": "The provider and its model: openai:gpt-5-mini."},
        prompt=_SOME_TEXT,
        system=_TEXT,
        url={**_TEXT, "description": "The base address of a server that speaks OpenAI's protocol."},
        schema=_optional({"type": "object", "description": "A JSON Schema that the answer has to fit."}),
        tools=_optional(
            {"type": "array", "maxItems": chat.MOST_SERVERS, "items": {"anyOf": [{"const": chat.OURS}, server]}}
        ),
        settings=_optional(
            _object(
                chat.SETTINGS,
                temperature={"type": ["number", "null"], "minimum": 0, "maximum": chat.HOTTEST},
                max_tokens={"type": ["integer", "null"], "minimum": 1, "maximum": chat.MOST_TOKENS},
                max_steps={"type": ["integer", "null"], "minimum": 1, "maximum": chat.MOST_STEPS},
            )
        ),
        env=env,
        secrets=names,
        account=_ACCOUNT,
    )


def _checkout() -> _Schema:
    """Where a task works."""
    merge = _object(checkouts.MERGE_KEYS, required=checkouts.MERGE_KEYS, commit=_SOME_TEXT, task=_SOME_TEXT)
    worktree = _object(
        checkouts.CHECKOUT_KEYS,
        required=("kind",),
        kind={"enum": list(checkouts.CheckoutKind)},
        base={**_TEXT, "description": "Where the run's branch begins: a branch, tag or commit. Default: HEAD."},
        keep_failed={**_DURATION, "description": "How long the worktree of a failed attempt is kept."},
        merge={**_optional(merge), "description": "A change that begins half merged; made by the merge queue."},
        setup={**_TEXT, "description": "A command that installs what the worktree needs, run once per lock file."},
        lock=_paths("Files whose content says when setup runs again. Default: well-known lock files."),
        copy=_paths("Files and folders of your checkout that are copied into the worktree."),
        share=_paths("What setup makes and worktrees link to, to read. Anything else that it makes is copied."),
        ports={
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": preparation.MOST_PORTS,
            "description": "How many free ports the job gets, as PORT, COORD_PORT_1 and so on.",
        },
        database=_optional(_object(preparation.DATABASE_KEYS, required=("clone",), clone=_SOME_TEXT, variable=_TEXT)),
    )
    return {"anyOf": [{"enum": [*checkouts.CheckoutKind, None]}, worktree]}


def _paths(description: str) -> _Schema:
    paths = {"type": "array", "items": _SOME_TEXT, "maxItems": preparation.MOST_NAMES}
    return {**_optional(paths), "description": description}


def _gates() -> _Schema:
    """What must pass before a task counts as completed."""
    gate = _object(checkouts.GATE_KEYS, required=("run",), run=_SOME_TEXT, timeout=_DURATION, name=_NAME)
    several = {"type": "array", "maxItems": checkouts.MAX_GATES, "items": {"anyOf": [_SOME_TEXT, gate]}}
    return {"anyOf": [_SOME_TEXT, several, {"type": "null"}], "description": "Commands that must succeed."}


def _estimate() -> _Schema:
    """What a task is expected to use."""
    estimate = _object(
        estimates.STATED_KEYS,
        usd={"type": ["number", "string", "null"], "minimum": 0},
        tokens={"type": ["integer", "null"], "minimum": 0, "maximum": estimates.MOST_TOKENS},
        duration=_DURATION,
    )
    return {**_optional(estimate), "description": "What it is expected to use, until a job like it has run."}


def _need() -> _Schema:
    return _object(reader.NEED_KEYS, required=("key",), key=_KEY, kind={"enum": [*DependencyKind, None]})


def _object(known: tuple[str, ...], *, required: tuple[str, ...] = (), **properties: _Schema) -> _Schema:
    """A mapping of exactly the *known* keys: a key that is forgotten here is found when the schema is made."""
    if set(known) != set(properties):
        raise LookupError(f"The schema and the reader differ in {sorted(set(known) ^ set(properties))}")
    return {
        "type": "object",
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
        "properties": {name: properties[name] for name in known},
    }


def _optional(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _by_name(schema: _Schema) -> _Schema:
    return _optional({"type": "object", "additionalProperties": schema})


_SOME_TEXT = {"type": "string", "minLength": 1}
_TEXT = {"type": ["string", "null"], "minLength": 1}
_NAME = {**_TEXT, "maxLength": MAX_KEY}
_ACCOUNT = {**_TEXT, "description": "An account of the worker's machine, such as claude@work."}
_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_KEY,
    "pattern": r"^[^\s-]\S*$",
    "description": "Letters, digits and . _ - / : in any order, not beginning with -.",
}
_SLOTS = {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_SLOTS}
_MOMENT = {"type": ["string", "null"], "pattern": MOMENT_PATTERN}
_SIZE = {
    "anyOf": [
        {"type": "string", "pattern": sizes.PATTERN},
        {"type": "number", "minimum": 1, "maximum": sizes.LARGEST},
        {"type": "null"},
    ],
    "description": "2GiB, 512MiB, 1.5GB, or a number of bytes.",
}
_DURATION = {
    "anyOf": [
        {"type": "string", "pattern": durations.PATTERN},
        {"type": "number", "minimum": 0, "maximum": durations.LONGEST.total_seconds()},
        {"type": "null"},
    ],
    "description": "30m, 1h30m, 90s, 250ms, 2d, or a number of seconds.",
}
