"""Reader of plan files. It checks keys and types of values; domain/plans/graph checks the plan as a whole."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from coordination.base.errors import PlanError, Refused, inside
from coordination.base.fields import TEXT, check_keys, load_fields, names_of
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.plans.plans import Plan, Task
from coordination.formats.plan.document import Document, read_document
from coordination.formats.plan.table import PLAN, TASK, VERSION


def read_plan(data: bytes, *, source: str) -> Plan:
    """Parse *data* (YAML or JSON in UTF-8). Raises PlanError with *source* and line for what is wrong with it."""
    document = read_document(data, source=source)
    if document.root is None:
        raise document.error("The plan is empty", hint="A plan needs at least version: 1 and a list of tasks")
    if not isinstance(document.root, dict):
        raise document.error("A plan is a mapping with the keys version and tasks", document.root_line)
    root = document.root
    with _located(document, root):
        check_keys(root, names_of(PLAN), "it")
        if root.get("version") is None:
            hint = "Begin it with version: 1"
            raise document.error("The plan has no version", document.root_line, hint=hint, field="version")
        if (version := root["version"]) != VERSION or type(version) is not int:
            message = f"version must be {VERSION}, not {excerpt(version)}"
            raise Refused(message, hint="This program reads version: 1", field="version")
        tasks, lines = _tasks(document, root)
        values: dict[str, Any] = load_fields(root, PLAN, dict)
    del values["version"]
    return Plan(**{**values, "tasks": tasks, "lines": lines, "source": source})


def read_tasks(items: Sequence[Mapping[str, Any]], *, source: str) -> tuple[Task, ...]:
    """Parse tasks in the form of plan files. Raises PlanError with *source* for what is wrong with them."""
    return _tasks(Document(source), {"tasks": [dict(item) for item in items]})[0]


def resolve_paths(plan: Plan, base: str) -> Plan:
    """Return *plan* with python_path and project.path, but not workdirs, relative to *base*, the plan file's folder."""

    def absolute(path: str) -> str:
        return posixpath.normpath(posixpath.join(base, path))

    project = plan.project
    return replace(
        plan,
        python_path=tuple(map(absolute, plan.python_path)),
        project=project if project.path is None else replace(project, path=absolute(project.path)),
    )


@contextmanager
def _located(document: Document, values: dict[str, Any], where: str = "", path: str = "") -> Iterator[None]:
    """Convert Refused to PlanError with a line. *values* are at *path* in the file; *where* begins the sentence."""
    try:
        yield
    except PlanError:
        raise
    except Refused as refused:
        line = document.line_at(values, refused.field or "")
        field = inside(path, refused.field) or None
        raise document.error(f"{where}{refused.message}", line, hint=refused.hint, field=field) from None


def _tasks(document: Document, root: dict[str, Any]) -> tuple[tuple[Task, ...], dict[str, int]]:
    items = root.get("tasks")
    if items is not None and not isinstance(items, list):
        raise document.error("tasks must be a list of tasks", document.line_of(root, "tasks"), field="tasks")
    if not items:
        line = document.line_of(root, "tasks") or document.root_line
        raise document.error("The plan has no tasks", line, hint="List them under tasks", field="tasks")
    tasks = []
    lines: dict[str, int] = {}
    for index, item in enumerate(items):
        line = document.line_of(items, index) or 0
        task = _task(document, item, index, line)
        if task.key in lines:
            message = f"The key {excerpt(task.key)} belongs to two tasks, the first in line {lines[task.key]}"
            raise document.error(message, line, hint="Every task needs a key of its own", field=f"tasks[{index}].key")
        lines[task.key] = line
        tasks.append(task)
    return tuple(tasks), lines


def _task(document: Document, item: object, index: int, line: int) -> Task:
    where, path = f"Task number {index + 1}: ", f"tasks[{index}]"
    if not isinstance(item, dict):
        raise document.error(f"{where}a task is a mapping with the keys key and run", line, field=path)
    if item.get("key") is None:
        hint = did_you_mean("key", item) if "key" not in item else None
        hint = hint or "Every task needs a key of its own"
        raise document.error(f"{where}it has no key", line, hint=hint, field=f"{path}.key")
    with _located(document, item, where, path):
        key = TEXT.load(item["key"], "key")
    where, path = f"Task {excerpt(key)}: ", f"tasks.{key}"
    with _located(document, item, where, path):
        check_keys(item, names_of(TASK), "it")
        if item.get("run") is None:
            raise document.error(f"{where}it has no run", line, hint='Write run: {shell: "…"}', field=f"{path}.run")
        return load_fields(item, TASK, Task)
