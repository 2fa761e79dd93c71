"""A plan file as a Plan: every key known, every value of its type. Whether the graph holds, domain/graph says."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs.chat import OURS, SETTINGS, TOOL_KEYS, ChatCall
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits
from coordination.domain.jobs.work import KEYS, KINDS, AgentCall, PythonCall, Shell, Work, parse_work
from coordination.domain.plans.plans import Concurrency, Defaults, Dependency, Plan, ProjectRef, Task
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import DependencyKind, OnDependencyFailure
from coordination.formats.plan.budgets import read_budget
from coordination.formats.plan.document import Document, read_document
from coordination.formats.plan.estimates import read_estimate
from coordination.formats.plan.fields import Fields
from coordination.formats.plan.supervision import read_questions, read_supervision, read_variants
from coordination.formats.plan.workspaces import read_checkout, read_gates

VERSION = 1

PLAN_KEYS = (
    *("version", "project", "name", "session", "defaults", "budget", "concurrency", "supervision", "gates"),
    *("questions", "python_path", "tasks"),
)
PROJECT_KEYS = ("name", "git_remote", "path")
DEFAULTS_KEYS = (
    *("timeout", "stall_timeout", "max_attempts", "max_starts", "backoff", "on_dependency_failure", "workdir"),
    *("agent", "limits", "checkout", "workspace", "account"),
)
LIMITS_KEYS = ("memory", "cpu", "files", "output")
BACKOFF_KEYS = ("initial", "factor", "max")
CONCURRENCY_KEYS = ("project", "agents", "keys")
NEED_KEYS = ("key", "kind")
TASK_KEYS = (
    *("key", "title", "run", "needs", "input", "agent", "parent", "priority", "max_attempts", "max_starts", "backoff"),
    *("timeout", "stall_timeout", "repeatable", "on_dependency_failure", "concurrency_key", "not_before", "due"),
    *("workdir", "criteria", "context", "variants", "supervised", "limits", "outputs", "checkout", "gates"),
    *("workspace", "estimate", "budget", "metadata", "expects"),
)


def read_plan(data: bytes, *, source: str) -> Plan:
    """The plan in *data* (YAML or JSON in UTF-8); PlanError with *source* and line for what is wrong with it."""
    document = read_document(data, source=source)
    if document.root is None:
        raise document.error("The plan is empty", hint="A plan needs at least version: 1 and a list of tasks")
    if not isinstance(document.root, dict):
        raise document.error("A plan is a mapping with the keys version and tasks", document.root_line)
    fields = Fields(document, document.root)
    fields.only(PLAN_KEYS)
    _check_version(fields)
    tasks, lines = _tasks(fields)
    return Plan(
        tasks=tasks,
        name=fields.text("name"),
        project=_project(fields.inner("project")),
        defaults=_defaults(fields.inner("defaults")),
        concurrency=_concurrency(fields.inner("concurrency")),
        budget=read_budget(fields),
        supervision=read_supervision(fields),
        questions=read_questions(fields),
        gates=read_gates(fields),
        python_path=fields.texts("python_path"),
        session=fields.text("session"),
        source=source,
        lines=lines,
    )


def read_tasks(items: Sequence[Mapping[str, Any]], *, source: str) -> tuple[Task, ...]:
    """Tasks as a plan says them, from JSON that somebody sent; PlanError with *source* for what is wrong with them."""
    document = Document(source)
    return _tasks(Fields(document, {"tasks": [dict(item) for item in items]}))[0]


def resolve_paths(plan: Plan, base: str) -> Plan:
    """*plan* with python_path and project.path seen from *base*, the plan file's folder; workdirs stay as written."""

    def absolute(path: str) -> str:
        return posixpath.normpath(posixpath.join(base, path))

    project = plan.project
    return replace(
        plan,
        python_path=tuple(map(absolute, plan.python_path)),
        project=project if project.path is None else replace(project, path=absolute(project.path)),
    )


def _check_version(fields: Fields) -> None:
    if fields.values.get("version") is None:
        raise fields.document.error(
            "The plan has no version", fields.document.root_line, hint="Begin it with version: 1", field="version"
        )
    version = fields.whole("version")
    if version != VERSION:
        raise fields.error("version", f"version {version} is not known", hint="This program reads version: 1")


def _project(fields: Fields | None) -> ProjectRef:
    if fields is None:
        return ProjectRef()
    fields.only(PROJECT_KEYS)
    return ProjectRef(name=fields.text("name"), git_remote=fields.text("git_remote"), path=fields.text("path"))


def _defaults(fields: Fields | None) -> Defaults:
    if fields is None:
        return Defaults()
    fields.only(DEFAULTS_KEYS)
    written = {
        "timeout": fields.duration("timeout"),
        "stall_timeout": fields.duration("stall_timeout"),
        "max_attempts": fields.whole("max_attempts"),
        "max_starts": fields.whole("max_starts"),
        "backoff": _backoff(fields),
        "on_dependency_failure": fields.choice("on_dependency_failure", OnDependencyFailure),
        "workdir": fields.text("workdir"),
        "agent": fields.text("agent"),
        "limits": _limits(fields),
        "checkout": read_checkout(fields),
        "account": fields.text("account"),
    }
    given: dict[str, Any] = {name: value for name, value in written.items() if value is not None}
    return Defaults(**given)


def _backoff(fields: Fields) -> Backoff | None:
    inner = fields.inner("backoff")
    if inner is None:
        return None
    inner.only(BACKOFF_KEYS)
    written = {
        "initial": inner.duration("initial"),
        "factor": inner.number("factor"),
        "maximum": inner.duration("max"),
    }
    given: dict[str, Any] = {name: value for name, value in written.items() if value is not None}
    return Backoff(**given)


def _limits(fields: Fields) -> Limits:
    inner = fields.inner("limits")
    if inner is None:
        return NO_LIMITS
    inner.only(LIMITS_KEYS)
    return Limits(inner.size("memory"), inner.duration("cpu"), inner.whole("files"), inner.size("output"))


def _concurrency(fields: Fields | None) -> Concurrency:
    if fields is None:
        return Concurrency()
    fields.only(CONCURRENCY_KEYS)
    return Concurrency(
        project=fields.whole("project"), agents=fields.whole_by_name("agents"), keys=fields.whole_by_name("keys")
    )


def _tasks(fields: Fields) -> tuple[tuple[Task, ...], dict[str, int]]:
    items = fields.values.get("tasks")
    if items is not None and not isinstance(items, list):
        raise fields.wrong("tasks", "a list of tasks")
    if not items:
        line = fields.line("tasks") or fields.document.root_line
        raise fields.document.error("The plan has no tasks", line, hint="List them under tasks", field="tasks")
    tasks = []
    lines: dict[str, int] = {}
    for index, item in enumerate(items):
        line = fields.document.line_of(items, index) or 0
        task = _task(fields.document, item, index, line)
        if task.key in lines:
            raise fields.document.error(
                f"The key {excerpt(task.key)} belongs to two tasks, the first in line {lines[task.key]}",
                line,
                hint="Every task needs a key of its own",
                field=f"tasks[{index}].key",
            )
        lines[task.key] = line
        tasks.append(task)
    return tuple(tasks), lines


def _task(document: Document, item: object, index: int, line: int) -> Task:
    where, path = f"Task number {index + 1}: ", f"tasks[{index}]"
    if not isinstance(item, dict):
        raise document.error(f"{where}a task is a mapping with the keys key and run", line, field=path)
    fields = Fields(document, item, where, path)
    key = fields.text("key")
    if key is None:
        hint = did_you_mean("key", item) if "key" not in item else None
        hint = hint or "Every task needs a key of its own"
        raise document.error(f"{where}it has no key", line, hint=hint, field=f"{path}.key")
    fields.where, fields.path = f"Task {excerpt(key)}: ", f"tasks.{key}"
    fields.only(TASK_KEYS)
    title = fields.text("title")
    repeatable = fields.flag("repeatable")
    priority = fields.whole("priority")
    return Task(
        key=key,
        run=_run(fields, line),
        title=None if title is None else title.rstrip("\n"),
        needs=_needs(fields),
        input=fields.json("input"),
        agent=fields.text("agent"),
        parent=fields.text("parent"),
        priority=0 if priority is None else priority,
        max_attempts=fields.whole("max_attempts"),
        max_starts=fields.whole("max_starts"),
        backoff=_backoff(fields),
        timeout=fields.duration("timeout"),
        stall_timeout=fields.duration("stall_timeout"),
        repeatable=True if repeatable is None else repeatable,
        on_dependency_failure=fields.choice("on_dependency_failure", OnDependencyFailure),
        concurrency_key=fields.text("concurrency_key"),
        not_before=fields.moment("not_before"),
        due=fields.moment("due"),
        workdir=fields.text("workdir"),
        criteria=fields.texts("criteria"),
        context=fields.flag("context") is not False,
        variants=read_variants(fields),
        supervised=fields.flag("supervised") is not False,
        limits=_limits(fields),
        outputs=fields.texts("outputs"),
        checkout=read_checkout(fields),
        gates=read_gates(fields),
        budget=read_budget(fields),
        estimate=read_estimate(fields),
        metadata=fields.json("metadata"),
        expects=fields.text("expects"),
    )


def _run(fields: Fields, line: int) -> Work:
    value = fields.values.get("run")
    if value is None:
        message = f"{fields.where}it has no run"
        raise fields.document.error(message, line, hint='Write run: {shell: "…"}', field=fields.place("run"))
    if not isinstance(value, dict):
        hint = f"Write run: {{shell: {value!r}}}" if isinstance(value, str) and len(value) < _SHORT else None
        raise fields.wrong("run", f"a mapping with one of the keys {', '.join(KINDS)}", hint)
    run = Fields(fields.document, value, f"{fields.where}run: ", fields.place("run"))
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        run.only(KINDS if not kinds else (*KINDS, "args", "env"))
        raise fields.error("run", f"run needs one of the keys {', '.join(KINDS)}" + (", not several" if kinds else ""))
    run.only(KEYS[kinds[0]])
    target = run.text(kinds[0])
    if target is None:
        raise run.wrong(kinds[0], "a text")
    env = run.texts_by_name("env")
    try:
        if kinds[0] == "shell":
            return parse_work(Shell(target, env=env))
        if kinds[0] == "agent":
            return parse_work(_agent_call(target, env, run))
        if kinds[0] == "chat":
            return parse_work(_chat_call(target, env, run))
        return parse_work(PythonCall(target, args=run.json("args"), env=env))
    except Refused as refused:
        if refused.code != Refused.code:
            raise
        raise run.error(kinds[0], refused.message, hint=refused.hint, field=refused.field) from None


def _agent_call(agent: str, env: dict[str, str], run: Fields) -> AgentCall:
    return AgentCall(
        agent,
        run.text("prompt") or "",
        model=run.text("model"),
        env=env,
        reads=run.texts_by_name("reads"),
        args=run.texts("args"),
        secrets=run.texts("secrets"),
        command=run.texts("command"),
        tools=run.texts("tools"),
        resume=run.texts("resume"),
        account=run.text("account"),
    )


def _chat_call(chat: str, env: dict[str, str], run: Fields) -> ChatCall:
    return ChatCall(
        chat,
        run.text("prompt") or "",
        system=run.text("system"),
        url=run.text("url"),
        schema=run.json("schema"),
        tools=_servers(run),
        settings=_settings(run),
        env=env,
        secrets=run.texts("secrets"),
        account=run.text("account"),
    )


def _settings(run: Fields) -> dict[str, Any]:
    inner = run.inner("settings")
    if inner is None:
        return {}
    inner.only(SETTINGS)
    written = {
        "temperature": inner.number("temperature"),
        "max_tokens": inner.whole("max_tokens"),
        "max_steps": inner.whole("max_steps"),
    }
    return {name: value for name, value in written.items() if value is not None}


def _servers(run: Fields) -> tuple[dict[str, Any] | str, ...]:
    value = run.values.get("tools")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise run.wrong("tools", "a list of MCP servers", "Write tools: [{command: [npx, some-server]}]")
    servers: list[dict[str, Any] | str] = []
    for index, item in enumerate(value):
        if item == OURS:
            servers.append(OURS)
            continue
        if not isinstance(item, dict):
            raise run.item_error("tools", index, f"tools must hold mappings, each with a command or a url, or {OURS}")
        server = Fields(run.document, item, f"{run.where}tools: ", run.place(f"tools[{index}]"))
        server.only(TOOL_KEYS)
        written = {
            "command": list(server.texts("command")),
            "url": server.text("url"),
            "env": server.texts_by_name("env"),
            "secrets": list(server.texts("secrets")),
        }
        servers.append({name: given for name, given in written.items() if given})
    return tuple(servers)


_SHORT = 60


def _needs(fields: Fields) -> tuple[str | Dependency, ...]:
    value = fields.values.get("needs")
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, dict):
        return (_need(fields, value, "needs"),)
    if not isinstance(value, list):
        raise fields.wrong("needs", "a key or a list of keys", 'Write keys that look like numbers in quotes: ["1"]')
    needs: list[str | Dependency] = []
    for index, item in enumerate(value):
        if isinstance(item, str):
            needs.append(item)
        elif isinstance(item, dict):
            needs.append(_need(fields, item, f"needs[{index}]"))
        else:
            hint = "Write a key that looks like a number in quotes"
            raise fields.item_error("needs", index, "needs must hold keys of tasks", hint=hint)
    return tuple(needs)


def _need(fields: Fields, item: dict[str, Any], place: str) -> Dependency:
    need = Fields(fields.document, item, f"{fields.where}needs: ", fields.place(place))
    need.only(NEED_KEYS)
    key = need.text("key")
    if key is None:
        raise fields.error("needs", "a mapping in needs has the keys key and kind", field=f"{place}.key")
    kind = need.choice("kind", DependencyKind)
    return Dependency(key) if kind is None else Dependency(key, kind)
